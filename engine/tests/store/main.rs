//! The store's one test suite: on SQLite always, and on Postgres where `TEST_DATABASE_URL` names a
//! server on which databases may be created. Each test has a database of its own.

mod support;

mod accounts;
mod audit;
mod journal;
mod opening;
mod wallets;
