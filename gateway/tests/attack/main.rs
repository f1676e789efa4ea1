//! The server under attack, over real sockets: one named test for each attack. Files are named for what
//! is attacked.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

#[path = "../support/mod.rs"]
mod support;

mod erased_users;
mod http;
mod passwords;
mod sockets;
mod sockets_of_dead_tokens;
mod tickets;
mod tokens;

use support::{client, raw, server, token};
