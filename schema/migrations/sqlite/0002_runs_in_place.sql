-- A process may begin more than one run: it was suspended, or paused its sessions because the database
-- was away. So a run says whose it is, and what it did with the sessions that it found live (law 8).

-- Which process: a random name. Empty for runs from before this column.
ALTER TABLE node_runs ADD COLUMN process TEXT NOT NULL DEFAULT '';

-- Whether the sessions of the run before went on, or ended when that was last alive.
ALTER TABLE node_runs ADD COLUMN resumes INTEGER NOT NULL DEFAULT 1 CHECK (resumes IN (0, 1));

-- The greatest instant of what the run recorded: it may lie after alive_at, and the next run begins
-- after both.
ALTER TABLE node_runs ADD COLUMN last_instant INTEGER NOT NULL DEFAULT 0;
