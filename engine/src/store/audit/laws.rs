//! Which of the README's laws an object of the schema stands for.

/// The database is the truth: nothing in it that none of our programs writes.
pub(super) const TRUTH: u8 = 6;
/// Time: no instant that nobody has reached yet.
pub(super) const TIME: u8 = 11;

/// The law that the rows of a table are about.
pub(super) fn of_table(table: &str) -> u8 {
    match table {
        "ledger" => 5,
        "sessions" | "idempotency_keys" | "id_blocks" => 4,
        "wallet_notices" => 7,
        "node_runs" | "node_lanes" | "session_pauses" => 8,
        _ => TRUTH,
    }
}

/// The law that a column, constraint, index or trigger is about.
pub(super) fn of_object(table: &str, name: &str) -> u8 {
    match name {
        "users_credits_check" | "credits" | "refuse_ledger_change" => 5,
        "sessions_live" | "users_email" | "version" | "users_version_check" => 7,
        _ if name.contains("tariff") => 2,
        _ => of_table(table),
    }
}

/// The law that a CHECK or NOT NULL of the table is about, by its text.
pub(super) fn of_condition(table: &str, condition: &str) -> u8 {
    if table == "users" && condition.contains("credits") {
        5
    } else if condition.contains("tariff") {
        2
    } else {
        of_table(table)
    }
}
