-- Which index serves which question.

-- "Which sessions are live" is what sessions_live knows, by user and slot.
DROP INDEX sessions_recovery;
