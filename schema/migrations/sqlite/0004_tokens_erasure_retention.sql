-- Which tokens of a user are valid, what becomes of a user who goes, and what was deleted of the history.
-- It is the Postgres schema in SQLite's words; the comments there hold here too.

ALTER TABLE users ADD COLUMN token_generation INTEGER NOT NULL DEFAULT 0 CHECK (token_generation >= 0);
ALTER TABLE users ADD COLUMN kept_token TEXT;
ALTER TABLE users ADD COLUMN closing_at INTEGER;
ALTER TABLE users ADD COLUMN erased_at INTEGER
    CHECK (erased_at IS NULL OR (password IS NULL AND credits = 0));
ALTER TABLE users ADD COLUMN forgotten_writes INTEGER NOT NULL DEFAULT 0 CHECK (forgotten_writes >= 0);

UPDATE users SET token_generation = 1 WHERE tokens_valid_from > 0;
ALTER TABLE users DROP COLUMN tokens_valid_from;

ALTER TABLE revoked_tokens ADD COLUMN user_id INTEGER REFERENCES users (id);
CREATE INDEX revoked_tokens_user ON revoked_tokens (user_id);
