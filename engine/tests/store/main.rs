//! The store's one test suite: on SQLite always, and on Postgres where `TEST_DATABASE_URL` names a
//! server on which databases may be created. Each test has a database of its own.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]
#![allow(clippy::too_many_lines, reason = "a table is as long as what it lists")]

mod support;

mod accounts;
mod audit;
mod clocks;
mod cluster;
mod damage;
mod erasure;
mod failover;
mod fixture;
mod journal;
mod keys;
mod lanes;
mod opening;
mod outages;
mod plans;
mod relay;
mod restored;
mod retention;
mod tokens;
mod wallets;
