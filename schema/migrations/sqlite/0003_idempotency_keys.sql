-- What requests were answered with, by their idempotency keys (law 4). It is the Postgres schema in
-- SQLite's words; the comments there hold here too.

CREATE TABLE idempotency_keys (
    user_id       INTEGER NOT NULL REFERENCES users (id),
    key           TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint   BLOB    NOT NULL CHECK (length(fingerprint) = 32),
    operation     TEXT    NOT NULL CHECK (operation IN ('start', 'stop')),
    session_id    INTEGER NOT NULL REFERENCES sessions (id),
    final_credits INTEGER CHECK (final_credits BETWEEN 0 AND 9007199254740991),
    created_at    INTEGER NOT NULL CHECK (created_at >= 0),
    PRIMARY KEY (user_id, key),
    CHECK ((operation = 'stop') = (final_credits IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
