//! The gateway of Minute-Credit: HTTP, websockets, accounts, the embedded page and the command line.
//!
//! ```text
//! server ──► routes ──► accounts, sessions, history, health, page ──► Engine
//!              └──► socket, event_stream ◄── subscription ◄── outbox ◄── hub ◄── UserUpdate
//! ```
//!
//! A request goes from `server` (the connection) through `routes` (the address) to one function, which
//! calls the engine once. A websocket is a task in `socket`, fed by the `hub`; so is an event stream. Deliberately absent:
//! billing, and any decision about credits.

pub mod cli;
pub mod key_ring;
pub mod origins;
pub mod server;
pub mod settings;
pub mod tokens;

mod access;
mod alarm;
mod app;
mod balance_text;
mod cause;
mod client;
mod connections;
mod cors;
mod emails;
mod epochs;
mod erasure;
mod event_stream;
mod hub;
mod key_file;
mod limits;
mod log;
mod log_ins;
mod metrics;
mod occupancy;
mod open_files;
mod outbox;
mod page;
mod passwords;
mod recent;
mod refusals;
mod reply;
mod request;
mod routes;
mod signups;
mod socket;
mod subscription;
mod telemetry;
mod throttle;
mod tickets;
mod voice;
