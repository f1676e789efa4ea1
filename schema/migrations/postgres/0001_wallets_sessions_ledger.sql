-- The first schema: users with their wallets, sessions, the ledger, and the runs of nodes.
--
-- Amounts are whole credits and instants are milliseconds since 1970; both stay within 2^53 - 1, so
-- that a JavaScript client reads them exactly. The laws named below are listed in the README.

CREATE TABLE users (
    id                BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email             TEXT   NOT NULL CHECK (email <> ''),
    -- An argon2 hash in PHC form. Without one nobody can log in.
    password          TEXT,
    -- A cache of the wallet's ledger sum (law 5).
    credits           BIGINT NOT NULL CHECK (credits BETWEEN 0 AND 9007199254740991),
    -- Counts the writes to the wallet (law 7).
    version           BIGINT NOT NULL DEFAULT 0 CHECK (version >= 0),
    -- The greatest instant that anything of the wallet was recorded with.
    last_instant      BIGINT NOT NULL CHECK (last_instant >= 0),
    tokens_valid_from BIGINT NOT NULL DEFAULT 0 CHECK (tokens_valid_from >= 0),
    created_at        BIGINT NOT NULL CHECK (created_at >= 0),
    updated_at        BIGINT NOT NULL CHECK (updated_at >= created_at)
) WITH (fillfactor = 80);

-- In the C collation lower() touches ASCII alone, as it does in SQLite.
CREATE UNIQUE INDEX users_email ON users (lower(email COLLATE "C"));

-- Ids that are given out in blocks, before what they name is written (law 4).
CREATE TABLE id_blocks (
    name TEXT   PRIMARY KEY,
    next BIGINT NOT NULL CHECK (next >= 1)
);

-- One row for each run of a process under its node's name (law 8). The current run may write.
CREATE TABLE node_runs (
    node       TEXT    NOT NULL CHECK (node <> ''),
    epoch      BIGINT  NOT NULL CHECK (epoch >= 1),
    started_at BIGINT  NOT NULL CHECK (started_at >= 0),
    alive_at   BIGINT  NOT NULL CHECK (alive_at >= started_at),
    is_current BOOLEAN NOT NULL,
    PRIMARY KEY (node, epoch)
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX node_runs_current ON node_runs (node) WHERE is_current;

CREATE TABLE sessions (
    id                 BIGINT  PRIMARY KEY CHECK (id >= 1),
    user_id            BIGINT  NOT NULL REFERENCES users (id),
    slot               INTEGER NOT NULL DEFAULT 0,
    node               TEXT    NOT NULL CHECK (node <> ''),
    start_time         BIGINT  NOT NULL CHECK (start_time >= 0),
    end_time           BIGINT,
    end_reason         TEXT    CHECK (end_reason IN ('user', 'depleted', 'admin', 'engine')),
    -- What of the charge is in the ledger, by how many settlements, and what the last one said: at
    -- settled_at the session had been served for served_ms. At the start that is nothing.
    credits_consumed   BIGINT  NOT NULL CHECK (credits_consumed BETWEEN 0 AND 9007199254740991),
    settled_seq        BIGINT  NOT NULL CHECK (settled_seq >= 0),
    settled_at         BIGINT  NOT NULL CHECK (settled_at >= start_time),
    served_ms          BIGINT  NOT NULL CHECK (served_ms BETWEEN 0 AND settled_at - start_time),
    tariff_credits     BIGINT  NOT NULL CHECK (tariff_credits >= 1),
    tariff_interval_ms BIGINT  NOT NULL CHECK (tariff_interval_ms >= 1),
    tariff_charged_at  TEXT    NOT NULL CHECK (tariff_charged_at IN ('end', 'start')),
    created_at         BIGINT  NOT NULL CHECK (created_at >= 0),
    CHECK ((end_time IS NULL) = (end_reason IS NULL)),
    -- A session ends with a settlement.
    CHECK (end_time IS NULL OR (end_time = settled_at AND settled_seq >= 1)),
    CHECK (settled_seq >= 1 OR (credits_consumed = 0 AND settled_at = start_time))
) WITH (fillfactor = 80);

-- The database decides who starts first (law 7).
CREATE UNIQUE INDEX sessions_live ON sessions (user_id, slot) WHERE end_time IS NULL;
CREATE INDEX sessions_recovery ON sessions (node, user_id) WHERE end_time IS NULL;
CREATE INDEX sessions_history ON sessions (user_id, start_time DESC, id DESC);

CREATE TABLE session_pauses (
    session_id BIGINT NOT NULL REFERENCES sessions (id),
    from_time  BIGINT NOT NULL CHECK (from_time >= 0),
    to_time    BIGINT CHECK (to_time >= from_time),
    reason     TEXT   NOT NULL,
    PRIMARY KEY (session_id, from_time)
);

CREATE UNIQUE INDEX session_pauses_open ON session_pauses (session_id) WHERE to_time IS NULL;

-- Double entry (law 5): a row moves an amount from one account to another. An account is a user's
-- wallet, by the user's id, or one of the house's: -1 issues credits, -2 takes in what is used.
CREATE TABLE ledger (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Whose wallet it is that the row moves credits into or out of.
    user_id         BIGINT NOT NULL REFERENCES users (id),
    at              BIGINT NOT NULL CHECK (at >= 0),
    kind            TEXT   NOT NULL,
    from_account    BIGINT NOT NULL,
    to_account      BIGINT NOT NULL,
    amount          BIGINT NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
    session_id      BIGINT REFERENCES sessions (id),
    -- The wallet's version by this row, and its balance right after it.
    wallet_version  BIGINT NOT NULL CHECK (wallet_version >= 1),
    balance_after   BIGINT NOT NULL CHECK (balance_after BETWEEN 0 AND 9007199254740991),
    reason          TEXT,
    operator        TEXT,
    idempotency_key TEXT,
    created_at      BIGINT NOT NULL CHECK (created_at >= 0),
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
);

CREATE UNIQUE INDEX ledger_idempotency_key ON ledger (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX ledger_history ON ledger (user_id, id DESC);

CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER ledger_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();

-- Word for a wallet's owner that somebody else wrote to the user's row (law 7).
CREATE TABLE wallet_notices (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    BIGINT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL CHECK (created_at >= 0)
);

CREATE INDEX wallet_notices_age ON wallet_notices (created_at);

CREATE TABLE revoked_tokens (
    token_id   TEXT   PRIMARY KEY,
    expires_at BIGINT NOT NULL CHECK (expires_at >= 0)
);

CREATE INDEX revoked_tokens_expiry ON revoked_tokens (expires_at);
