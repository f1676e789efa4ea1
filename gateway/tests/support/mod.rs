//! A real server, and clients for it: what all tests over real sockets share.

#![allow(
    dead_code,
    reason = "it is compiled into each test program, and none uses all of it"
)]

pub mod client;
pub mod contract;
pub mod home;
pub mod raw;
pub mod server;
pub mod token;
