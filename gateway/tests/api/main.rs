//! The API over real sockets, against the real server: on a fresh SQLite database, or on a fresh one
//! of the Postgres server that `TEST_DATABASE_URL` names. Files are named for the addresses they test.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod document;
mod errors;
mod health;
mod history;
mod idempotency;
mod operations;
mod origins;
mod page;
mod sessions;
mod stream;
mod websocket;

use support::{client, contract, home, raw, server, token};
