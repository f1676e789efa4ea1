-- What requests were answered with, by their idempotency keys (law 4). A row is written by the
-- transaction that recorded the fact; rows older than 24 hours count as absent and are deleted.

CREATE TABLE idempotency_keys (
    user_id       BIGINT NOT NULL REFERENCES users (id),
    key           TEXT   COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- The SHA-256 of the request: the same key with another one is a conflict.
    fingerprint   BYTEA  NOT NULL CHECK (length(fingerprint) = 32),
    -- Whether the session was started or stopped; what else was answered is in the session's row,
    -- which does not change after its end.
    operation     TEXT   NOT NULL CHECK (operation IN ('start', 'stop')),
    session_id    BIGINT NOT NULL REFERENCES sessions (id),
    -- What the wallet held after the stop.
    final_credits BIGINT CHECK (final_credits BETWEEN 0 AND 9007199254740991),
    created_at    BIGINT NOT NULL CHECK (created_at >= 0),
    PRIMARY KEY (user_id, key),
    CHECK ((operation = 'stop') = (final_credits IS NOT NULL))
);

CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
