//! The engine of Minute-Credit: a supervisor that keeps one actor for each user with a live session,
//! the journal and the mirror that record what they decide, and the stores.
//!
//! ```text
//! Engine ──► supervisor ──► session actor ──► journal ──► Store (Postgres or SQLite)
//!                              │    ▲    └──► mirror ──► Redis
//!             UserUpdate ◄─────┘    └── metronome
//! ```
//!
//! Calls go one way, from left to right; only casts come back. Deliberately absent: HTTP, sockets,
//! tokens and passwords (the `gateway` crate), and the arithmetic itself (`billing`).

mod context;
mod count;
mod ids;
mod journal;
mod metronome;
mod mirror;
mod recovery;
mod reply;
mod session;
mod supervisor;
mod timeline;
mod watermark;

pub mod batched;
pub mod clock;
pub mod engine;
pub mod facts;
pub mod keys;
pub mod lanes;
pub mod metrics;
pub mod notices;
pub mod retention;
pub mod store;
pub mod update;
pub mod wakes;

pub use clock::{Clock, ClockReading};
pub use engine::{Engine, EngineSettings};
pub use mirror::{InvalidRedisUrl, RedisUrl};
