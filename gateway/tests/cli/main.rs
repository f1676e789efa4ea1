//! The real program, started as people start it.

mod program;

mod serve;
mod settings;
mod tools;
