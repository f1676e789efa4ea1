-- A process may begin more than one run: it was suspended, or paused its sessions because the database
-- was away. So a run says whose it is, and what it did with the sessions that it found live (law 8).

ALTER TABLE node_runs
    -- Which process: a random name. Empty for runs from before this column.
    ADD COLUMN process TEXT    NOT NULL DEFAULT '',
    -- Whether the sessions of the run before went on, or ended when that was last alive.
    ADD COLUMN resumes BOOLEAN NOT NULL DEFAULT TRUE,
    -- The greatest instant of what the run recorded: it may lie after alive_at, and the next run begins
    -- after both.
    ADD COLUMN last_instant BIGINT NOT NULL DEFAULT 0;
