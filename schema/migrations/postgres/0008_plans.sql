-- Which index serves which question, and how often the tables that live sessions write to are tidied up.

-- "Which sessions are live" is what sessions_live knows, by user and slot. The planner took this one for a
-- user's own live session as soon as most sessions had ended, and then read all that are live on the node.
DROP INDEX sessions_recovery;

-- By default a table is tidied when a fifth of it has changed: a million sessions of five million.
ALTER TABLE users SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE sessions SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE ledger SET (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE node_runs SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
ALTER TABLE idempotency_keys SET (autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.05);
