-- The first schema: users with their wallets, sessions, the ledger, and the runs of nodes. It is the
-- Postgres schema in SQLite's words; the comments there hold here too.
--
-- Amounts are whole credits and instants are milliseconds since 1970; INTEGER has 64 bits, and both
-- stay within 2^53 - 1.

CREATE TABLE users (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    email             TEXT    NOT NULL CHECK (email <> ''),
    password          TEXT,
    credits           INTEGER NOT NULL CHECK (credits BETWEEN 0 AND 9007199254740991),
    version           INTEGER NOT NULL DEFAULT 0 CHECK (version >= 0),
    last_instant      INTEGER NOT NULL CHECK (last_instant >= 0),
    tokens_valid_from INTEGER NOT NULL DEFAULT 0 CHECK (tokens_valid_from >= 0),
    created_at        INTEGER NOT NULL CHECK (created_at >= 0),
    updated_at        INTEGER NOT NULL CHECK (updated_at >= created_at)
) STRICT;

CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE id_blocks (
    name TEXT    PRIMARY KEY NOT NULL,
    next INTEGER NOT NULL CHECK (next >= 1)
) STRICT, WITHOUT ROWID;

CREATE TABLE node_runs (
    node       TEXT    NOT NULL CHECK (node <> ''),
    epoch      INTEGER NOT NULL CHECK (epoch >= 1),
    started_at INTEGER NOT NULL CHECK (started_at >= 0),
    alive_at   INTEGER NOT NULL CHECK (alive_at >= started_at),
    is_current INTEGER NOT NULL CHECK (is_current IN (FALSE, TRUE)),
    PRIMARY KEY (node, epoch)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX node_runs_current ON node_runs (node) WHERE is_current;

CREATE TABLE sessions (
    id                 INTEGER PRIMARY KEY CHECK (id >= 1),
    user_id            INTEGER NOT NULL REFERENCES users (id),
    slot               INTEGER NOT NULL DEFAULT 0,
    node               TEXT    NOT NULL CHECK (node <> ''),
    start_time         INTEGER NOT NULL CHECK (start_time >= 0),
    end_time           INTEGER,
    end_reason         TEXT    CHECK (end_reason IN ('user', 'depleted', 'admin', 'engine')),
    credits_consumed   INTEGER NOT NULL CHECK (credits_consumed BETWEEN 0 AND 9007199254740991),
    settled_seq        INTEGER NOT NULL CHECK (settled_seq >= 0),
    settled_at         INTEGER NOT NULL CHECK (settled_at >= start_time),
    served_ms          INTEGER NOT NULL CHECK (served_ms BETWEEN 0 AND settled_at - start_time),
    tariff_credits     INTEGER NOT NULL CHECK (tariff_credits >= 1),
    tariff_interval_ms INTEGER NOT NULL CHECK (tariff_interval_ms >= 1),
    tariff_charged_at  TEXT    NOT NULL CHECK (tariff_charged_at IN ('end', 'start')),
    created_at         INTEGER NOT NULL CHECK (created_at >= 0),
    CHECK ((end_time IS NULL) = (end_reason IS NULL)),
    CHECK (end_time IS NULL OR (end_time = settled_at AND settled_seq >= 1)),
    CHECK (settled_seq >= 1 OR (credits_consumed = 0 AND settled_at = start_time))
) STRICT;

CREATE UNIQUE INDEX sessions_live ON sessions (user_id, slot) WHERE end_time IS NULL;
CREATE INDEX sessions_recovery ON sessions (node, user_id) WHERE end_time IS NULL;
CREATE INDEX sessions_history ON sessions (user_id, start_time DESC, id DESC);

CREATE TABLE session_pauses (
    session_id INTEGER NOT NULL REFERENCES sessions (id),
    from_time  INTEGER NOT NULL CHECK (from_time >= 0),
    to_time    INTEGER CHECK (to_time >= from_time),
    reason     TEXT    NOT NULL,
    PRIMARY KEY (session_id, from_time)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX session_pauses_open ON session_pauses (session_id) WHERE to_time IS NULL;

CREATE TABLE ledger (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id         INTEGER NOT NULL REFERENCES users (id),
    at              INTEGER NOT NULL CHECK (at >= 0),
    kind            TEXT    NOT NULL,
    from_account    INTEGER NOT NULL,
    to_account      INTEGER NOT NULL,
    amount          INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
    session_id      INTEGER REFERENCES sessions (id),
    wallet_version  INTEGER NOT NULL CHECK (wallet_version >= 1),
    balance_after   INTEGER NOT NULL CHECK (balance_after BETWEEN 0 AND 9007199254740991),
    reason          TEXT,
    operator        TEXT,
    idempotency_key TEXT,
    created_at      INTEGER NOT NULL CHECK (created_at >= 0),
    CHECK (CASE kind
        WHEN 'signup_grant' THEN from_account = -1 AND to_account = user_id
        WHEN 'grant'        THEN from_account = -1 AND to_account = user_id
        WHEN 'refund'       THEN from_account = -2 AND to_account = user_id
        WHEN 'revoke'       THEN from_account = user_id AND to_account = -1
        WHEN 'usage'        THEN from_account = user_id AND to_account = -2
        ELSE FALSE
    END),
    CHECK ((kind = 'usage') = (session_id IS NOT NULL AND idempotency_key IS NULL)),
    UNIQUE (user_id, wallet_version)
) STRICT;

CREATE UNIQUE INDEX ledger_idempotency_key ON ledger (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX ledger_history ON ledger (user_id, id DESC);

CREATE TRIGGER ledger_refuses_update BEFORE UPDATE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only: UPDATE is refused');
END;

CREATE TRIGGER ledger_refuses_delete BEFORE DELETE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only: DELETE is refused');
END;

CREATE TABLE wallet_notices (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL CHECK (created_at >= 0)
) STRICT;

CREATE INDEX wallet_notices_age ON wallet_notices (created_at);

CREATE TABLE revoked_tokens (
    token_id   TEXT    PRIMARY KEY NOT NULL,
    expires_at INTEGER NOT NULL CHECK (expires_at >= 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX revoked_tokens_expiry ON revoked_tokens (expires_at);
