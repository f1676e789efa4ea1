//! The wall clock, which the servers that are measured read as well.

/// The wall clock in microseconds since 1970.
pub fn wall_micros() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the load generator stands outside the engine"
    )]
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}
