//! Crashes a running server again and again, and accounts for every operation afterwards.
//!
//! A process of its own that shares no code with the engine: it knows the contract (`schema`), the
//! command line and the time, and writes down what was acknowledged. In the end each operation is
//! held against what the server's API shows, and each charge against this process's own clock. A run
//! reads from top to bottom in [`run`]; what counts as wrong is in [`checker`], which is pure.

pub mod history;
pub mod moment;

pub mod checker;
pub mod records;
pub mod report;
pub mod service;

pub mod client;
pub mod clocks;
pub mod operator;
pub mod user;
pub mod watcher;

pub mod nemesis;
pub mod processes;
pub mod program;
pub mod proxy;
pub mod server;

pub mod options;
pub mod run;
pub mod setup;
