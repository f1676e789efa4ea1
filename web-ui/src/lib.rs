//! The page of Minute-Credit: sign up, start a session, watch the credits fall, stop.
//!
//! One loop runs it. Whatever happens (a click, an answer, a message, a timer) is an
//! [`action::Action`]; [`reducer::reduce`] turns the state and the action into the next state and
//! the effects to carry out; the components draw the state. All of that is pure and tested on the
//! host. Only `browser` and `components` touch the browser, and only they need it to build.
//!
//! The balance on the screen is always one that the server has said. What moves between its messages
//! is derived: the countdown, from the facts in the last message and the estimate of the server's
//! clock.

pub mod clock;
pub mod words;

pub mod countdown;
pub mod feed;
pub mod spark;
pub mod unsettled;

pub mod api;
pub mod model;
pub mod notice;

pub mod action;
pub mod reducer;
pub mod wake;

#[cfg(target_arch = "wasm32")]
pub mod browser;
#[cfg(target_arch = "wasm32")]
pub mod components;
