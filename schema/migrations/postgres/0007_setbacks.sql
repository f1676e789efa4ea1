-- What tells that the database went back, and that an account is another one than had its id before.

-- A process found that the database lacks what it had acknowledged: a standby without the last changes was
-- promoted, or a backup was put in its place. No process begins a run while there is a row, until
-- `minute-credit restored` has skipped the ids that clients may know, and deletes it.

CREATE TABLE setbacks (
    node           TEXT   NOT NULL,
    -- The run that found it.
    epoch          BIGINT NOT NULL CHECK (epoch >= 1),
    -- Up to when the database had acknowledged that run.
    known_alive_at BIGINT NOT NULL CHECK (known_alive_at >= 0),
    PRIMARY KEY (node, epoch)
);

ALTER TABLE users
    -- 128 bits drawn by chance, as 32 hexadecimal digits. Tokens name it: the id of a user who was lost may
    -- be given to somebody else.
    ADD COLUMN account_key TEXT COLLATE "C" CHECK (account_key ~ '^[0-9a-f]{32}$');

UPDATE users SET account_key = md5(gen_random_uuid()::TEXT || gen_random_uuid()::TEXT);
ALTER TABLE users
    ALTER COLUMN account_key SET DEFAULT md5(gen_random_uuid()::TEXT || gen_random_uuid()::TEXT),
    ALTER COLUMN account_key SET NOT NULL;
