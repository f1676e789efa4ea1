-- Which tokens of a user are valid, what becomes of a user who goes, and what was deleted of the history.

ALTER TABLE users
    -- A token carries the generation of its user's tokens that it was made in, and is void in a later
    -- one: so no clock decides whether it came before a change of the password.
    ADD COLUMN token_generation BIGINT NOT NULL DEFAULT 0 CHECK (token_generation >= 0),
    -- The one token of an earlier generation that is valid all the same: the password was changed by it.
    ADD COLUMN kept_token       TEXT,
    -- Since when the user is about to be erased: live sessions are ended, and none starts.
    ADD COLUMN closing_at       BIGINT,
    -- Since when the user is nobody. The row stays, since the ledger refers to it.
    ADD COLUMN erased_at        BIGINT,
    -- How many of the wallet's writes were for sessions that were deleted since.
    ADD COLUMN forgotten_writes BIGINT NOT NULL DEFAULT 0 CHECK (forgotten_writes >= 0),
    ADD CONSTRAINT users_erased CHECK (erased_at IS NULL OR (password IS NULL AND credits = 0));

UPDATE users SET token_generation = 1 WHERE tokens_valid_from > 0;
ALTER TABLE users DROP COLUMN tokens_valid_from;

-- Whose token it was; nothing for those from before this column.
ALTER TABLE revoked_tokens ADD COLUMN user_id BIGINT REFERENCES users (id);
CREATE INDEX revoked_tokens_user ON revoked_tokens (user_id);
