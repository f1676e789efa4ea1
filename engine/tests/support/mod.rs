//! What the engine's tests share.

#![allow(dead_code, reason = "no test uses all of it")]

pub mod memory;
pub mod world;
