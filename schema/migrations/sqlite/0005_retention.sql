-- To delete a session, the database looks for rows that refer to it. It is the Postgres schema in
-- SQLite's words.

CREATE INDEX ledger_session ON ledger (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX idempotency_keys_session ON idempotency_keys (session_id);
