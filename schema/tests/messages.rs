//! Every message of the contract as the JSON that clients see, in the snapshots beside this file, and
//! back again. A change of a snapshot is a change of the contract.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    Credits, CreditsChange, EntryId, ErrorBody, ErrorCode, Millis, SessionId, UnixMillis, UserId,
    account::{Authenticated, Done, EmailAndPassword, User},
    ledger::{EntryKind, LedgerEntry, LedgerPage},
    mirror::MirroredSession,
    session::{
        Active, ActiveSession, EndReason, LiveBalance, SessionPage, SessionRecord, SessionStarted,
        SessionStopped,
    },
    websocket::{CloseCode, CreditUpdate, ServerMessage},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Messages with their names, each of which has come back from its JSON as it was.
#[derive(Default, Serialize)]
struct Messages(BTreeMap<&'static str, Value>);

impl Messages {
    fn add<M: Serialize + DeserializeOwned + PartialEq>(
        &mut self,
        name: &'static str,
        message: &M,
    ) {
        let json = serde_json::to_string(message).unwrap();
        assert!(
            serde_json::from_str::<M>(&json).unwrap() == *message,
            "{name} comes back as another: {json}"
        );
        let is_new = self
            .0
            .insert(name, serde_json::from_str(&json).unwrap())
            .is_none();
        assert!(is_new, "{name} stands for two messages");
    }
}

fn credits(credits: i64) -> Credits {
    Credits::new(credits).unwrap()
}

fn ms(millis: i64) -> UnixMillis {
    UnixMillis::new(millis).unwrap()
}

fn session_id() -> SessionId {
    SessionId::new(41).unwrap()
}

fn running() -> ActiveSession {
    ActiveSession {
        session_id: session_id(),
        started_at: ms(1_790_000_000_000),
        consumed: credits(5),
        credits_per_interval: credits(1),
        interval_ms: Millis::new(6_000).unwrap(),
        next_charge_at: Some(ms(1_790_000_036_000)),
        depletes_at: Some(ms(1_790_000_600_000)),
    }
}

fn paused() -> ActiveSession {
    ActiveSession {
        next_charge_at: None,
        depletes_at: None,
        ..running()
    }
}

fn balance(session: Option<ActiveSession>) -> LiveBalance {
    LiveBalance {
        credits: credits(95),
        as_of: ms(1_790_000_030_000),
        session,
    }
}

fn user(session: Option<ActiveSession>) -> User {
    User {
        id: UserId::new(7).unwrap(),
        email: "Ada@example.com".to_owned(),
        credits: credits(95),
        as_of: ms(1_790_000_030_000),
        created_at: ms(1_789_000_000_000),
        session,
    }
}

fn json<M: Serialize>(message: M) -> Value {
    serde_json::to_value(message).unwrap()
}

#[test]
fn accounts() {
    let mut messages = Messages::default();
    let asked = EmailAndPassword {
        email: "Ada@example.com".to_owned(),
        password: "correct horse".to_owned(),
    };
    messages.add("signup or login", &asked);
    for (name, message) in [
        ("signed up", "User created successfully"),
        ("logged in", "Login successful"),
    ] {
        let token = "v4.local.token".to_owned();
        messages.add(
            name,
            &Authenticated {
                message: message.to_owned(),
                token,
                user: user(None),
            },
        );
    }
    messages.add("user in session", &user(Some(running())));
    messages.add("user in a paused session", &user(Some(paused())));
    messages.add(
        "done",
        &Done {
            message: "Logged out".to_owned(),
        },
    );
    insta::assert_json_snapshot!(messages);
}

#[test]
fn sessions() {
    let mut messages = Messages::default();
    messages.add("balance", &balance(None));
    messages.add("balance in session", &balance(Some(running())));
    messages.add("balance in a paused session", &balance(Some(paused())));
    messages.add(
        "not active",
        &Active {
            active: false,
            balance: balance(None),
        },
    );
    messages.add(
        "active",
        &Active {
            active: true,
            balance: balance(Some(running())),
        },
    );
    let started = SessionStarted {
        message: "Session started".to_owned(),
        session_id: session_id(),
        started_at: ms(1_790_000_000_000),
    };
    messages.add("started", &started);
    let stopped = SessionStopped {
        message: "Session stopped".to_owned(),
        session_id: session_id(),
        credits_consumed: credits(5),
        final_credits: credits(95),
        ended_at: ms(1_790_000_031_000),
        reason: EndReason::User,
    };
    messages.add("stopped", &stopped);
    let live = SessionRecord {
        session_id: session_id(),
        started_at: ms(1_790_000_000_000),
        ended_at: None,
        credits_consumed: credits(5),
        end_reason: None,
        served_ms: Millis::new(30_000).unwrap(),
        credits_per_interval: credits(1),
        interval_ms: Millis::new(6_000).unwrap(),
    };
    let ended = SessionRecord {
        ended_at: Some(ms(1_790_000_031_000)),
        end_reason: Some(EndReason::Depleted),
        ..live
    };
    messages.add("session that lives", &live);
    messages.add("session that ended", &ended);
    messages.add(
        "page",
        &SessionPage {
            sessions: vec![live, ended],
            next_cursor: Some("c2Vzc2lvbg".to_owned()),
        },
    );
    messages.add(
        "last page",
        &SessionPage {
            sessions: Vec::new(),
            next_cursor: None,
        },
    );
    insta::assert_json_snapshot!(messages);
}

#[test]
fn ledger() {
    let mut messages = Messages::default();
    let grant = LedgerEntry {
        entry_id: EntryId::new(3).unwrap(),
        at: ms(1_789_000_000_000),
        kind: EntryKind::SignupGrant,
        amount: CreditsChange::incoming(credits(100)),
        balance_after: credits(100),
        session_id: None,
        reason: None,
    };
    let usage = LedgerEntry {
        entry_id: EntryId::new(4).unwrap(),
        kind: EntryKind::Usage,
        amount: CreditsChange::outgoing(credits(5)),
        balance_after: credits(95),
        session_id: Some(session_id()),
        ..grant.clone()
    };
    let refund = LedgerEntry {
        kind: EntryKind::Refund,
        reason: Some("the service was slow".to_owned()),
        ..grant.clone()
    };
    messages.add("grant", &grant);
    messages.add("usage", &usage);
    messages.add("refund", &refund);
    messages.add(
        "page",
        &LedgerPage {
            entries: vec![usage, grant],
            next_cursor: Some("3".to_owned()),
        },
    );
    messages.add(
        "last page",
        &LedgerPage {
            entries: Vec::new(),
            next_cursor: None,
        },
    );
    insta::assert_json_snapshot!(messages);
}

#[test]
fn websocket() {
    let mut messages = Messages::default();
    let update = |session: Option<ActiveSession>| {
        ServerMessage::CreditUpdate(CreditUpdate {
            credits: credits(95),
            as_of: ms(1_790_000_030_000),
            active: session.is_some(),
            session,
            resumed: None,
        })
    };
    messages.add("credit_update", &update(None));
    messages.add("credit_update in session", &update(Some(running())));
    messages.add("credit_update in a paused session", &update(Some(paused())));
    let started_at = ms(1_790_000_000_000);
    messages.add(
        "session_started",
        &ServerMessage::SessionStarted {
            session_id: session_id(),
            started_at,
        },
    );
    for (name, reason) in [
        ("session_stopped by the user", EndReason::User),
        ("session_stopped by depletion", EndReason::Depleted),
        ("session_stopped by an operator", EndReason::Admin),
        ("session_stopped by the engine", EndReason::Engine),
    ] {
        let message = ServerMessage::SessionStopped {
            session_id: session_id(),
            reason,
            ended_at: ms(1_790_000_031_000),
            credits_consumed: credits(5),
            final_credits: credits(95),
        };
        messages.add(name, &message);
    }
    messages.add(
        "balance_low",
        &ServerMessage::BalanceLow {
            credits: credits(10),
            seconds_left: 60,
        },
    );
    messages.add(
        "credits_added",
        &ServerMessage::CreditsAdded {
            amount: credits(50),
            credits: credits(145),
        },
    );
    insta::assert_json_snapshot!(messages);
}

#[test]
fn mirror() {
    let mut messages = Messages::default();
    let idle = MirroredSession {
        version: 12,
        as_of: ms(1_790_000_030_000),
        credits: credits(95),
        active: false,
        session: None,
    };
    messages.add("idle", &idle);
    messages.add(
        "in session",
        &MirroredSession {
            active: true,
            session: Some(running()),
            ..idle
        },
    );
    insta::assert_json_snapshot!(messages);
    assert_eq!(schema::mirror::key(UserId::new(7).unwrap()), "session:7");
}

/// Clients of the fixed part look for exactly these; the rest they ignore.
#[test]
fn the_fixed_part_is_there() {
    let check = |name: &str, message: Value, fields: Value| {
        for (field, value) in fields.as_object().unwrap() {
            assert_eq!(message.get(field), Some(value), "{field} of {name}");
        }
    };
    check(
        "a user",
        json(user(None)),
        json!({"id": 7, "email": "Ada@example.com", "credits": 95}),
    );
    check("a balance", json(balance(None)), json!({"credits": 95}));
    check(
        "activity",
        json(Active {
            active: true,
            balance: balance(Some(running())),
        }),
        json!({"active": true}),
    );
    let update = CreditUpdate {
        credits: credits(95),
        as_of: ms(0),
        active: false,
        session: None,
        resumed: None,
    };
    let update = json(ServerMessage::CreditUpdate(update));
    check(
        "an update",
        update,
        json!({"type": "credit_update", "credits": 95}),
    );
}

/// Without a session its fields are absent, not null; and only then does none come back.
#[test]
fn no_session_leaves_no_fields() {
    let fields = |balance: &LiveBalance| -> BTreeSet<String> {
        json(balance).as_object().unwrap().keys().cloned().collect()
    };
    let told = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    };
    let balance_alone = told(&["asOf", "credits"]);
    let in_session = [
        "consumed",
        "creditsPerInterval",
        "depletesAt",
        "intervalMs",
        "nextChargeAt",
        "sessionId",
        "startedAt",
    ];
    assert_eq!(fields(&balance(None)), balance_alone);
    for session in [running(), paused()] {
        assert_eq!(
            fields(&balance(Some(session))),
            &balance_alone | &told(&in_session)
        );
    }
    let back: LiveBalance = serde_json::from_value(json!({"credits": 95, "asOf": 0})).unwrap();
    assert_eq!(back.session, None);
}

/// A client of today reads what a server of tomorrow adds; a type that it doesn't know is an error
/// that it can ignore.
#[test]
fn additions_are_ignored() {
    let json = json!({"type": "credit_update", "credits": 1, "asOf": 2, "active": false, "seq": 3, "new": {}});
    let update = CreditUpdate {
        credits: credits(1),
        as_of: ms(2),
        active: false,
        session: None,
        resumed: None,
    };
    assert_eq!(
        serde_json::from_value::<ServerMessage>(json).unwrap(),
        ServerMessage::CreditUpdate(update)
    );
    assert!(serde_json::from_value::<ServerMessage>(json!({"type": "tomorrow"})).is_err());
}

#[test]
fn what_is_out_of_range_is_refused() {
    for credits in [
        json!(-1),
        json!(1.5),
        json!("95"),
        json!(9_007_199_254_740_992_i64),
        Value::Null,
    ] {
        let json = json!({"credits": credits, "asOf": 0});
        assert!(
            serde_json::from_value::<LiveBalance>(json).is_err(),
            "{credits} credits"
        );
    }
    for id in [0, -7] {
        assert!(serde_json::from_value::<SessionId>(json!(id)).is_err());
    }
}

/// Every code with the status and the name that clients know it by.
#[test]
fn each_error_has_its_status() {
    use ErrorCode as Code;
    let table = [
        (Code::InvalidJson, "invalid_json", 400),
        (Code::InvalidRequest, "invalid_request", 400),
        (Code::TokenRequired, "token_required", 401),
        (Code::InvalidToken, "invalid_token", 401),
        (Code::InvalidCredentials, "invalid_credentials", 401),
        (Code::InsufficientCredits, "insufficient_credits", 402),
        (Code::OriginNotAllowed, "origin_not_allowed", 403),
        (Code::NotFound, "not_found", 404),
        (Code::MethodNotAllowed, "method_not_allowed", 405),
        (Code::RequestTimeout, "request_timeout", 408),
        (Code::EmailTaken, "email_taken", 409),
        (Code::SessionActive, "session_active", 409),
        (Code::NoActiveSession, "no_active_session", 409),
        (Code::IdempotencyConflict, "idempotency_conflict", 409),
        (Code::BodyTooLarge, "body_too_large", 413),
        (Code::UnsupportedMediaType, "unsupported_media_type", 415),
        (Code::InvalidField, "invalid_field", 422),
        (Code::InvalidEmail, "invalid_email", 422),
        (Code::InvalidPassword, "invalid_password", 422),
        (Code::RateLimited, "rate_limited", 429),
        (Code::TooManyUnpaidSessions, "too_many_unpaid_sessions", 429),
        (Code::Internal, "internal", 500),
        (Code::Unavailable, "unavailable", 503),
        (Code::OutcomeUnknown, "outcome_unknown", 503),
    ];
    let mut messages = Messages::default();
    for (code, name, status) in table {
        assert_eq!(code.status(), status, "{name}");
        let is_of_a_field = status == 422;
        let field = is_of_a_field.then(|| name.trim_start_matches("invalid_").to_owned());
        let body = ErrorBody {
            error: "A sentence that a person can read.".to_owned(),
            code,
            field,
        };
        messages.add(name, &body);
        let json = &messages.0[name];
        assert_eq!(
            (&json["code"], json.get("field").is_some()),
            (&json!(name), is_of_a_field)
        );
    }
    insta::assert_json_snapshot!(messages);
}

/// Every close code, and whether a client that gets it comes back.
#[test]
fn each_close_code_says_whether_to_come_back() {
    let table = [
        (CloseCode::GoingAway, 1001, true),
        (CloseCode::NotAllowed, 1008, false),
        (CloseCode::TooLarge, 1009, true),
        (CloseCode::TryLater, 1013, true),
        (CloseCode::TooSlow, 4000, true),
    ];
    for (code, number, comes_back) in table {
        assert_eq!(
            (code.number(), CloseCode::should_reconnect(number)),
            (number, comes_back),
            "{code:?}"
        );
    }
    // Nobody closed it, or in a way that is not ours: the line broke.
    for number in [1000, 1005, 1006, 1011, 4999] {
        assert!(CloseCode::should_reconnect(number), "{number}");
    }
}

#[test]
fn names_in_the_database_are_those_in_json() {
    for kind in EntryKind::ALL {
        assert_eq!(json(kind), json!(kind.as_str()));
        assert_eq!(EntryKind::from_name(kind.as_str()), Some(kind));
    }
    for reason in [
        EndReason::User,
        EndReason::Depleted,
        EndReason::Admin,
        EndReason::Engine,
    ] {
        assert_eq!(json(reason), json!(reason.as_str()));
        assert_eq!(EndReason::from_name(reason.as_str()), Some(reason));
    }
    assert_eq!(
        (EntryKind::from_name("Usage"), EndReason::from_name("")),
        (None, None)
    );
}
