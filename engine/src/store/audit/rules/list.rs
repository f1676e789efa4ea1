//! The rules that are no constraints of the schema, table by table.
//!
//! Each condition is true of a row that breaks the rule, in SQL that both databases understand; what
//! differs between them is given as a pair of texts.

use super::{super::laws, Expected, Question, RowRule};
use crate::store::connection::Connection;

/// How far ahead of the auditor's clock a run may be before one of the clocks must have been wrong: 24 h,
/// as at start-up.
const LEAD_MS_MAX: i64 = 24 * 3_600_000;
/// How far the clocks of two machines may be apart, with the time that an audit's statement waits: a minute.
const SKEW_MS_MAX: i64 = 60_000;
/// The longest time that a token lives: a year is the most that can be set, and a day for clocks.
const TOKEN_MS_MAX: i64 = 366 * 24 * 3_600_000;
/// An argon2 hash in PHC form with a salt of 16 bytes and 32 bytes of hash, as a pattern of GLOB.
const HASH_GLOB: &str =
    "$argon2*$v=*$m=*,t=*,p=*$??????????????????????$???????????????????????????????????????????";
/// The same as a pattern of LIKE.
const HASH_LIKE: &str =
    "$argon2%$v=%$m=%,t=%,p=%$______________________$___________________________________________";

/// The latest instants that there can be.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Bounds {
    /// No instant lies past this: what runs have proved, or the auditor's clock.
    pub(in super::super) latest: i64,
    /// What runs have proved; 0 if there was none.
    pub(in super::super) proved: i64,
    /// No run lies past this.
    pub(in super::super) latest_run: i64,
}

impl Bounds {
    /// The bounds if the auditor's clock is at `now` and runs have proved `proved`.
    pub(in super::super) fn new(now: i64, proved: i64) -> Self {
        let latest_run = now.saturating_add(LEAD_MS_MAX);
        Self {
            latest: now.saturating_add(SKEW_MS_MAX).max(proved.min(latest_run)),
            proved,
            latest_run,
        }
    }
}

/// Puts rules together.
struct Rules {
    is_postgres: bool,
    rules: Vec<RowRule>,
}

impl Rules {
    /// A row for which `broken` is true breaks a rule; `says` is an SQL text with its values.
    fn add(&mut self, law: u8, broken: impl Into<String>, name: &str, says: impl Into<String>) {
        self.rules.push(RowRule {
            law,
            broken: broken.into(),
            says: says.into(),
            otherwise: name.to_owned(),
        });
    }

    /// A row for which `broken` is true breaks a rule, which `name` says.
    fn plain(&mut self, law: u8, broken: impl Into<String>, name: &str) {
        self.add(law, broken, name, "NULL");
    }

    /// No instant in `column` may lie past `latest`.
    fn instant(&mut self, column: &str, latest: i64) {
        self.add(
            laws::TIME,
            format!("{column} > {latest}"),
            &format!("{column} lies past every run and past now"),
            format!("'{column} is ' || {column} || ', and neither a run nor the clock has got past {latest}'"),
        );
    }

    /// The text in `column` must be `digits` hexadecimal digits.
    fn hexadecimal(&mut self, law: u8, column: &str, digits: u32, name: &str) {
        let is_other = if self.is_postgres {
            format!("{column} !~ '^[0-9a-f]{{{digits}}}$'")
        } else {
            format!("(length({column}) <> {digits} OR {column} GLOB '*[^0-9a-f]*')")
        };
        self.add(
            law,
            is_other,
            name,
            format!("'{column} is not {digits} hexadecimal digits: ' || {column}"),
        );
    }
}

/// The rules for rows of `table`.
pub(super) fn row_rules(connection: &Connection, table: &str, bounds: Bounds) -> Vec<RowRule> {
    let mut rules = Rules {
        is_postgres: matches!(connection, Connection::Postgres(_)),
        rules: Vec::new(),
    };
    match table {
        "users" => {
            accounts(&mut rules, bounds);
            erased_users(&mut rules);
        }
        "ledger" => {
            entries(&mut rules, bounds);
            causes_of_entries(&mut rules);
        }
        "sessions" => sessions(&mut rules, bounds),
        "session_pauses" => rules.plain(8, "reason = ''", "a pause has no reason"),
        "node_runs" => runs(&mut rules, bounds),
        "node_lanes" => {
            rules.instant("last_instant", bounds.latest_run);
            rules.plain(8, "lane > 255", "no run has so many lanes");
        }
        "id_blocks" => {
            rules.plain(4, "name <> 'sessions'", "nobody takes ids of this name");
            rules.plain(
                9,
                "next > 9007199254740992",
                "the ids are used up: clients can't read more",
            );
        }
        "idempotency_keys" => {
            rules.instant("created_at", bounds.latest);
            let is_odd = if rules.is_postgres {
                "key !~ '^[!-~]+$'"
            } else {
                "key GLOB '*[^!-~]*'"
            };
            rules.plain(4, is_odd, "the key has other characters than visible ASCII");
        }
        "revoked_tokens" => {
            rules.hexadecimal(laws::TRUTH, "token_id", 32, "no token has this id");
            rules.instant("expires_at", bounds.latest.saturating_add(TOKEN_MS_MAX));
        }
        "wallet_notices" => rules.instant("created_at", bounds.latest),
        _ => {}
    }
    rules.rules
}

fn accounts(rules: &mut Rules, bounds: Bounds) {
    for column in [
        "created_at",
        "updated_at",
        "closing_at",
        "erased_at",
        "last_instant",
    ] {
        rules.instant(column, bounds.latest);
    }
    rules.plain(
        9,
        "id < 1 OR id > 9007199254740991 OR version > 9007199254740991",
        "the id or version is none that clients can read",
    );
    rules.add(
        7,
        "updated_at < last_instant",
        "updated_at lies before the wallet's last instant",
        "'updated_at is ' || updated_at || ', before the last instant ' || last_instant",
    );
    let is_hash = if rules.is_postgres {
        format!("password LIKE '{HASH_LIKE}'")
    } else {
        format!("password GLOB '{HASH_GLOB}'")
    };
    rules.plain(
        laws::TRUTH,
        format!("password IS NOT NULL AND NOT ({is_hash})"),
        "password is no argon2 hash in PHC form, so nobody can log in",
    );
    rules.hexadecimal(
        laws::TRUTH,
        "kept_token",
        32,
        "no token has the id in kept_token",
    );
    // The database knows only what characters it has.
    rules.plain(
        laws::TRUTH,
        "length(account_key) <> 32",
        "account_key is not 32 digits, so no token opens the account",
    );
    rules.plain(
        laws::TRUTH,
        "kept_token IS NOT NULL AND token_generation = 0",
        "kept_token is set, and no token was ever voided",
    );
    rules.plain(
        laws::TRUTH,
        "length(email) > 254 OR email LIKE '% %' OR (erased_at IS NULL AND email NOT LIKE '_%@_%')",
        "email is no email address",
    );
}

fn erased_users(rules: &mut Rules) {
    rules.plain(
        laws::TRUTH,
        "erased_at IS NOT NULL AND email <> 'erased-' || id",
        "the user is erased, and an email is left",
    );
    rules.plain(
        laws::TRUTH,
        "erased_at IS NULL AND email = 'erased-' || id",
        "the email is that of an erased user, and erased_at is NULL",
    );
    rules.plain(
        laws::TRUTH,
        "erased_at IS NOT NULL AND (kept_token IS NOT NULL OR token_generation = 0)",
        "the user is erased, and tokens of theirs are valid",
    );
    rules.add(
        laws::TRUTH,
        format!(
            "erased_at IS NOT NULL AND (closing_at IS NULL OR closing_at > erased_at + {SKEW_MS_MAX} OR updated_at < erased_at)"
        ),
        "the user is erased, and closing_at or updated_at says otherwise",
        "'erased at ' || erased_at || ', begun at ' || COALESCE(CAST(closing_at AS TEXT), 'NULL')
            || ', updated at ' || updated_at",
    );
    rules.plain(
        5,
        "erased_at IS NOT NULL AND credits <> 0",
        "the user is erased, and credits are left",
    );
}

fn entries(rules: &mut Rules, bounds: Bounds) {
    rules.instant("at", bounds.latest);
    let Bounds { proved, .. } = bounds;
    rules.add(
        laws::TIME,
        format!("recorded_at IS NOT NULL AND at > {proved}"),
        "an operator's entry lies past what runs have proved",
        format!("'at is ' || at || ', and no run has proved more than {proved}'"),
    );
    rules.add(
        5,
        "created_at <> at",
        "created_at and at are two instants",
        "'created_at is ' || created_at || ' and at is ' || at || ': an entry has one instant'",
    );
    rules.plain(
        7,
        "wallet_version > 9007199254740991 OR id > 9007199254740991 OR id < 1",
        "the id or version is none that clients can read",
    );
}

/// What an entry is for, and who made it.
fn causes_of_entries(rules: &mut Rules) {
    rules.plain(
        5,
        "kind = 'usage' AND (reason IS NOT NULL OR operator IS NOT NULL OR idempotency_key IS NOT NULL)",
        "a usage entry has a reason, an operator or a key: the engine gives none",
    );
    rules.plain(
        5,
        "kind = 'signup_grant' AND (reason IS NOT NULL OR operator IS NOT NULL OR session_id IS NOT NULL
            OR wallet_version <> 1 OR idempotency_key IS NULL OR idempotency_key <> 'signup')",
        "a signup grant is the wallet's first entry, under the key \"signup\", and nobody's but the program's",
    );
    rules.plain(
        5,
        "kind IN ('grant', 'revoke', 'refund') AND (COALESCE(reason, '') = '' OR COALESCE(operator, '') = '')",
        "an operator's entry has no reason or no operator",
    );
    rules.plain(
        4,
        "kind IN ('grant', 'revoke', 'refund') AND COALESCE(idempotency_key, '') = ''",
        "an operator's entry has no idempotency key",
    );
    rules.plain(
        5,
        "(kind IN ('usage', 'refund')) <> (session_id IS NOT NULL)",
        "usage and refunds are for a session, and nothing else is",
    );
    rules.plain(
        5,
        "idempotency_key = 'minute-credit erasure' AND kind <> 'revoke'",
        "the key of an erasure is used for something else",
    );
    rules.plain(
        9,
        "length(reason) > 500 OR length(operator) > 100 OR length(idempotency_key) > 255",
        "a reason, operator or key is longer than one can be",
    );
}

fn sessions(rules: &mut Rules, bounds: Bounds) {
    for column in ["start_time", "end_time", "settled_at"] {
        rules.instant(column, bounds.latest);
    }
    rules.add(
        4,
        "created_at <> start_time",
        "created_at and start_time are two instants",
        "'created_at is ' || created_at || ' and start_time is ' || start_time || ': a session has one beginning'",
    );
    rules.plain(
        9,
        "id > 9007199254740991 OR tariff_credits > 9007199254740991 OR tariff_interval_ms > 9007199254740991",
        "the id or the tariff is none that clients can read",
    );
    rules.plain(7, "slot < 0", "there is no such slot");
}

fn runs(rules: &mut Rules, bounds: Bounds) {
    for column in ["started_at", "alive_at", "last_instant"] {
        rules.instant(column, bounds.latest_run);
    }
    let (is_no_name, is_no_process) = if rules.is_postgres {
        (
            "node !~ '^[A-Za-z0-9._-]{1,64}$'",
            "process !~ '^([0-9a-f]{32})?$'",
        )
    } else {
        (
            "length(node) > 64 OR node GLOB '*[^A-Za-z0-9._-]*'",
            "length(process) NOT IN (0, 32) OR process GLOB '*[^0-9a-f]*'",
        )
    };
    rules.plain(8, is_no_name, "no node can have this name");
    rules.plain(8, is_no_process, "no process has this name");
    rules.plain(8, "last_instant < 0", "last_instant is negative");
    rules.plain(8, "epoch > 9007199254740991", "there can't be so many runs");
}

/// Questions about rows of more than one table.
pub(super) fn relations(connection: &Connection, expected: &Expected) -> Vec<Question> {
    let mut questions = vec![
        secrets_of_two("password", "the same salted hash"),
        secrets_of_two("kept_token", "the same kept token"),
        secrets_of_two("account_key", "the same account key"),
        of_erased("sessions", "id", "end_time IS NULL", "a session is live"),
        of_erased("idempotency_keys", "key", "1 = 1", "a key is kept"),
        of_erased(
            "revoked_tokens",
            "token_id",
            "1 = 1",
            "a revoked token is kept",
        ),
        block_of_ids(),
        question(
            8,
            "node_lanes",
            "a lane belongs to no current run",
            "SELECT lanes.node || '/' || lane AS place, CAST(NULL AS BIGINT) AS holder,
                'run ' || lanes.epoch || ' of node ' || lanes.node || ' is not current, and lane ' || lane
                    || ' is its' AS what
             FROM node_lanes AS lanes LEFT JOIN node_runs AS run ON run.node = lanes.node AND run.epoch = lanes.epoch
             WHERE run.is_current IS NOT TRUE",
        ),
        question(
            laws::TRUTH,
            "revoked_tokens",
            "a token ended before its user was there",
            "SELECT token_id AS place, user_id AS holder,
                'expires_at is ' || expires_at || ', and user ' || user_id || ' is there since ' || users.created_at AS what
             FROM revoked_tokens JOIN users ON users.id = user_id WHERE expires_at < users.created_at",
        ),
    ];
    questions.extend(answers());
    for table in ["users", "ledger", "wallet_notices"] {
        if expected.table(table).is_some() {
            questions.push(counter(connection, table));
        }
    }
    questions
}

fn question(law: u8, table: &str, name: &str, sql: impl Into<String>) -> Question {
    Question {
        law,
        table: table.to_owned(),
        name: name.to_owned(),
        sql: sql.into(),
    }
}

/// What is drawn by chance can't be the same for two users: somebody has copied it.
fn secrets_of_two(column: &str, what: &str) -> Question {
    question(
        laws::TRUTH,
        "users",
        &format!("two users have {what}"),
        format!(
            "SELECT CAST(max(id) AS TEXT) AS place, CAST(max(id) AS BIGINT) AS holder,
                'user ' || min(id) || ' has {what}: one was copied from the other' AS what
             FROM users WHERE {column} IS NOT NULL GROUP BY {column} HAVING count(*) > 1"
        ),
    )
}

fn of_erased(table: &str, key: &str, condition: &str, what: &str) -> Question {
    question(
        laws::TRUTH,
        table,
        &format!("{what} of a user who is erased"),
        format!(
            "SELECT CAST(own.{key} AS TEXT) AS place, user_id AS holder,
                'user ' || user_id || ' is erased, and {what}' AS what
             FROM {table} AS own JOIN users ON users.id = user_id
             WHERE erased_at IS NOT NULL AND ({condition})"
        ),
    )
}

/// Ids of sessions are taken in blocks, before they are used.
fn block_of_ids() -> Question {
    question(
        4,
        "id_blocks",
        "the next block of session ids begins below used ones",
        "SELECT 'sessions' AS place, CAST(NULL AS BIGINT) AS holder,
            'next is ' || COALESCE(CAST((SELECT min(next) FROM id_blocks WHERE name = 'sessions') AS TEXT), 'missing')
                || ', and session ' || max(id) || ' is there: its id would be given again' AS what
         FROM sessions
         HAVING max(id) >= COALESCE((SELECT min(next) FROM id_blocks WHERE name = 'sessions'), 0)",
    )
}

/// The database counts ids of rows by itself, and must not be below one in use.
fn counter(connection: &Connection, table: &str) -> Question {
    let last = if matches!(connection, Connection::Postgres(_)) {
        format!("(SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM {table}_id_seq)")
    } else {
        format!("COALESCE((SELECT max(seq) FROM sqlite_sequence WHERE name = '{table}'), 0)")
    };
    question(
        4,
        table,
        "the counter of ids stands below used ones",
        format!(
            "SELECT CAST(max(id) AS TEXT) AS place, CAST(NULL AS BIGINT) AS holder,
                'the counter of ids stands at ' || {last} || ', and {table} has the id ' || max(id)
                    || ': ids would be given again' AS what
             FROM {table} HAVING max(id) > {last}"
        ),
    )
}

/// What requests were answered with is what the session and the ledger say.
fn answers() -> [Question; 3] {
    [
        question(
            4,
            "idempotency_keys",
            "a key answers with another user's session",
            "SELECT kept.user_id || '/' || key AS place, kept.user_id AS holder,
                'session ' || session_id || ' is user ' || sessions.user_id || '''s' AS what
             FROM idempotency_keys AS kept JOIN sessions ON sessions.id = session_id
             WHERE sessions.user_id <> kept.user_id",
        ),
        question(
            4,
            "idempotency_keys",
            "a key was kept before what it answers with",
            "SELECT kept.user_id || '/' || key AS place, kept.user_id AS holder,
                'the ' || operation || ' was kept at ' || kept.created_at || ', and session ' || session_id
                    || ' started at ' || start_time || ' and ended at ' || COALESCE(CAST(end_time AS TEXT), 'NULL')
                    AS what
             FROM idempotency_keys AS kept JOIN sessions ON sessions.id = session_id
             WHERE kept.created_at < start_time OR (operation = 'stop' AND (end_time IS NULL
                OR kept.created_at < end_time))",
        ),
        question(
            4,
            "idempotency_keys",
            "a stop is answered with another balance than the ledger's",
            "SELECT kept.user_id || '/' || key AS place, kept.user_id AS holder,
                'final_credits is ' || final_credits || ', and the ledger had ' || balance
                    || ' after session ' || session_id AS what
             FROM (SELECT kept.*, COALESCE((SELECT balance_after FROM ledger
                        WHERE ledger.user_id = kept.user_id AND ledger.wallet_version <= sessions.wallet_version
                        ORDER BY ledger.wallet_version DESC LIMIT 1), 0) AS balance
                 FROM idempotency_keys AS kept JOIN sessions ON sessions.id = session_id
                 WHERE operation = 'stop' AND sessions.wallet_version IS NOT NULL AND end_time IS NOT NULL) AS kept
             WHERE final_credits <> balance",
        ),
    ]
}
