-- Several batches of one run may be written at once. Each has a row of its own, so that none waits for another.

-- The lanes of current runs. Whoever begins a node's next run deletes them, which shuts out all later
-- batches, and takes what they say over into the run that ended.
CREATE TABLE node_lanes (
    node         TEXT    NOT NULL CHECK (node <> ''),
    lane         INTEGER NOT NULL CHECK (lane >= 0),
    epoch        INTEGER NOT NULL CHECK (epoch >= 1),
    -- The greatest instant of what was recorded by the lane; node_runs.last_instant is that of a run that is
    -- over.
    last_instant INTEGER NOT NULL DEFAULT 0 CHECK (last_instant >= 0),
    PRIMARY KEY (node, lane)
) STRICT;
