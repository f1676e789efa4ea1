-- What came before what is told by the wallet's versions alone.
-- It is the Postgres schema in SQLite's words; the comments there hold here too.

ALTER TABLE sessions ADD COLUMN wallet_version INTEGER CHECK (wallet_version >= 1);

UPDATE sessions SET wallet_version = CASE
    WHEN settled_seq >= 1 THEN
        (SELECT max(ledger.wallet_version) FROM ledger WHERE session_id = sessions.id AND kind = 'usage')
    ELSE
        (SELECT version FROM users WHERE id = sessions.user_id)
        - (SELECT count(*) FROM
            (SELECT ledger.wallet_version, users.version, row_number() OVER (ORDER BY ledger.wallet_version DESC) AS place
             FROM ledger JOIN users ON users.id = ledger.user_id
             WHERE ledger.user_id = sessions.user_id AND kind <> 'usage') AS entry
           WHERE entry.wallet_version = entry.version - entry.place + 1)
    END
WHERE end_time IS NULL;

ALTER TABLE ledger ADD COLUMN recorded_at INTEGER CHECK (recorded_at >= 0);

ALTER TABLE node_runs ADD COLUMN lead_ms INTEGER NOT NULL DEFAULT 0 CHECK (lead_ms >= 0);
