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
mod operations;
mod serve;
mod settings;
mod tools;
mod traces;
mod verify;
