//! What is on the screen. Components draw what they are given and report what the user does.
//!
//! The page's policy forbids `style` attributes, so everything that moves does it by classes and SVG
//! attributes.

pub mod page;

mod account;
mod dashboard;
mod entry;
mod header;
mod history;
mod icon;
mod notices;
mod session_panel;
mod sessions_table;
mod spark_line;
mod title;
mod wallet_panel;
mod wallet_table;
