-- What came before what is told by the wallet's versions alone: a writer whose clock is wrong dates what
-- it writes wrongly, and no charge may follow from that.

ALTER TABLE sessions
    -- The wallet's version by the session's start or its last settlement: what others wrote to the wallet
    -- after it has a greater one. NULL only in sessions that ended before this column.
    ADD COLUMN wallet_version BIGINT CHECK (wallet_version >= 1);

-- A session without a settlement wrote last when it started, and that is the greatest version of the wallet
-- without a row in the ledger. Every settlement in between has its row.
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

ALTER TABLE ledger
    -- What the writer's own clock said, for people to read. Nothing is computed from it. NULL where the
    -- engine wrote, which has no other time than that of "at".
    ADD COLUMN recorded_at BIGINT CHECK (recorded_at >= 0);

ALTER TABLE node_runs
    -- How far the run's beginning lay ahead of the wall clock of the process that began it, in ms.
    ADD COLUMN lead_ms BIGINT NOT NULL DEFAULT 0 CHECK (lead_ms >= 0);
