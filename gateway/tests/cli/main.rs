//! The real program, started as people start it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on should panic"
)]

mod program;

mod clocks;
mod credits;
mod keys;
mod log;
mod mirror;
mod operations;
mod outages;
mod serve;
mod sessions;
mod settings;
mod tools;
mod traces;
mod users;
mod verify;
