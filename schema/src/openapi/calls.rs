//! Every call.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Content, ResponseBuilder,
        path::ParameterIn,
        schema::{Object, ObjectBuilder, Type},
    },
};

use super::{
    call::{Call, in_query, parameter},
    failures::header,
};
use crate::{
    ErrorCode, SessionId,
    account::{
        Authenticated, ChangePassword, Done, EmailAndPassword, EraseAccount, LogOut, Ticket, User,
    },
    ledger::LedgerPage,
    session::{Active, LiveBalance, SessionPage, SessionRecord, SessionStarted, SessionStopped},
    websocket::StreamMessage,
};

/// Every call, in the order of the document's sections.
pub(super) fn all() -> Vec<Call> {
    let mut calls = accounts();
    calls.extend(sessions());
    calls.extend(history());
    calls.extend(stream());
    calls.extend(operation());
    calls
}

fn accounts() -> Vec<Call> {
    const TAG: &str = "accounts";
    vec![
        Call::post("/api/auth/signup", "signUp")
            .says(
                TAG,
                "Sign up",
                "Makes a user with the credits that come with signing up. After an unknown outcome, \
                 log in.",
            )
            .takes_body::<EmailAndPassword>("Who signs up.")
            .answers::<Authenticated>(201, "The new user, and a token.")
            .refuses(&[
                ErrorCode::EmailTaken,
                ErrorCode::RateLimited,
                ErrorCode::InvalidEmail,
                ErrorCode::InvalidPassword,
                ErrorCode::Unavailable,
                ErrorCode::OutcomeUnknown,
            ]),
        Call::post("/api/auth/login", "logIn")
            .says(TAG, "Log in", "Makes a token.")
            .takes_body::<EmailAndPassword>("Who logs in.")
            .answers::<Authenticated>(200, "The user, and a token.")
            .refuses(&[
                ErrorCode::InvalidCredentials,
                ErrorCode::RateLimited,
                ErrorCode::Unavailable,
            ]),
        Call::post("/api/auth/logout", "logOut")
            .says(
                TAG,
                "Log out",
                "Voids the token, or all tokens of the user; their sockets close within a second.",
            )
            .with_token()
            .may_take_body::<LogOut>("Whether everywhere. Nothing: this token alone.")
            .answers::<Done>(200, "The token is void, or all of them.")
            .refuses(&[
                ErrorCode::InvalidField,
                ErrorCode::Unavailable,
                ErrorCode::OutcomeUnknown,
            ]),
        Call::post("/api/auth/password", "changePassword")
            .says(
                TAG,
                "Change the password",
                "Voids all tokens of the user but this one; their sockets close within a second. After \
                 an unknown outcome, log in with the new password.",
            )
            .with_token()
            .takes_body::<ChangePassword>("The password until now, and the one from now on.")
            .answers::<Done>(200, "The new password counts.")
            .refuses(&[
                ErrorCode::InvalidCredentials,
                ErrorCode::RateLimited,
                ErrorCode::InvalidPassword,
                ErrorCode::Unavailable,
                ErrorCode::OutcomeUnknown,
            ]),
        Call::post("/api/auth/erase", "eraseAccount")
            .says(
                TAG,
                "Erase the account",
                "Ends the live session, takes back what is left of the credits, and erases who the user \
                 was: email, password, tokens. What was paid for stays in the books, as of nobody. \
                 There is no way back; the email is free for a new user.",
            )
            .with_token()
            .takes_body::<EraseAccount>("The password, once more.")
            .answers::<Done>(200, "The user is gone.")
            .refuses(&[
                ErrorCode::InvalidCredentials,
                ErrorCode::RateLimited,
                ErrorCode::Unavailable,
                ErrorCode::OutcomeUnknown,
            ]),
        Call::get("/api/auth/me", "me")
            .says(TAG, "The user, the live balance and the live session", "")
            .with_token()
            .answers::<User>(200, "Who has the token.")
            .refuses(&[ErrorCode::Unavailable]),
    ]
}

fn sessions() -> Vec<Call> {
    const TAG: &str = "sessions";
    vec![
        Call::post("/api/sessions/start", "startSession")
            .says(
                TAG,
                "Start a session",
                "Answered when the start is durable. The session costs credits from this instant.",
            )
            .with_token()
            .takes_common("Idempotency-Key")
            .may_take_body::<Empty>("Nothing, or an object without meaning.")
            .answers::<SessionStarted>(200, "The session lives.")
            .refuses(&[
                ErrorCode::InsufficientCredits,
                ErrorCode::SessionActive,
                ErrorCode::IdempotencyConflict,
                ErrorCode::InvalidField,
                ErrorCode::TooManyUnpaidSessions,
                ErrorCode::Unavailable,
                ErrorCode::OutcomeUnknown,
            ]),
        Call::post("/api/sessions/stop", "stopSession")
            .says(
                TAG,
                "Stop the session",
                "Answered when the end is durable. A stop that meets the session's own end reports \
                 that one.",
            )
            .with_token()
            .takes_common("Idempotency-Key")
            .may_take_body::<Empty>("Nothing, or an object without meaning.")
            .answers::<SessionStopped>(200, "The session is over, and this is what it cost.")
            .refuses(&[
                ErrorCode::NoActiveSession,
                ErrorCode::IdempotencyConflict,
                ErrorCode::InvalidField,
                ErrorCode::Unavailable,
                ErrorCode::OutcomeUnknown,
            ]),
        Call::get("/api/sessions/active", "activeSession")
            .says(TAG, "Whether a session is running", "")
            .with_token()
            .answers::<Active>(200, "The balance, and the session if there is one.")
            .refuses(&[ErrorCode::Unavailable]),
        Call::get("/api/sessions/credits", "credits")
            .says(TAG, "The live balance", "")
            .with_token()
            .answers::<LiveBalance>(200, "The balance, and the session if there is one.")
            .refuses(&[ErrorCode::Unavailable]),
    ]
}

fn history() -> Vec<Call> {
    const TAG: &str = "history";
    let page = |call: Call, cursor: &str| {
        call.with_token()
            .takes(in_query(
                "limit",
                "How many items to give at most.",
                limit(),
            ))
            .takes(in_query(
                "cursor",
                "Where to go on: the `nextCursor` of the page before.",
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some(cursor))
                    .build(),
            ))
            .refuses(&[ErrorCode::InvalidField, ErrorCode::Unavailable])
    };
    let id = parameter(
        ParameterIn::Path,
        "id",
        "The session's id. Others' sessions are not found.",
        SessionId::schema(),
    );
    vec![
        page(
            Call::get("/api/sessions", "sessions"),
            "^[0-9]{1,15}-[1-9][0-9]{0,14}$",
        )
        .says(TAG, "The caller's sessions, newest first", "")
        .answers::<SessionPage>(200, "A page of sessions."),
        Call::get("/api/sessions/{id}", "session")
            .says(TAG, "One of the caller's sessions", "")
            .with_token()
            .takes(id.build())
            .answers::<SessionRecord>(200, "The session.")
            .refuses(&[ErrorCode::NotFound, ErrorCode::Unavailable]),
        page(Call::get("/api/ledger", "ledger"), "^[1-9][0-9]{0,14}$")
            .says(TAG, "The wallet's movements, newest first", "")
            .answers::<LedgerPage>(200, "A page of ledger entries."),
    ]
}

fn stream() -> Vec<Call> {
    const TAG: &str = "stream";
    let upgraded = ResponseBuilder::new().description(
        "The connection is a websocket now. The server sends `StreamMessage`s as text.",
    );
    let events = ResponseBuilder::new()
        .description("A stream that does not end by itself.")
        .content("text/event-stream", Content::new(Some(text())));
    vec![
        Call::post("/api/ws/ticket", "ticket")
            .says(
                TAG,
                "A ticket that opens one stream",
                "So that no token need stand in an address. It can be used once, on the process that \
                 made it, and dies with the token. Only an event stream that comes back to the same \
                 address, with `Last-Event-ID` as an `EventSource` sends it, may use it again: for a day, \
                 on every process.",
            )
            .with_token()
            .may_take_body::<Empty>("Nothing, or an object without meaning.")
            .answers::<Ticket>(200, "The ticket.")
            .refuses(&[ErrorCode::Unavailable]),
        streaming(Call::get("/ws", "websocket"))
            .says(TAG, "The live stream, as a websocket", WEBSOCKET)
            .with_any_of(&["bearer", "ticket_in_query", "token_in_query"])
            .answers_with(101, upgraded)
            .refuses(&[
                ErrorCode::InvalidRequest,
                ErrorCode::OriginNotAllowed,
                ErrorCode::UpgradeRequired,
            ]),
        streaming(Call::get("/api/stream", "stream"))
            .says(TAG, "The live stream, as server-sent events", EVENT_STREAM)
            .takes(
                parameter(
                    ParameterIn::Header,
                    "Last-Event-ID",
                    "The same as `since`, as an `EventSource` sends it that comes back.",
                    text(),
                )
                .build(),
            )
            .with_any_of(&["bearer", "ticket_in_query", "token_in_query"])
            .answers_with(200, events)
            .refuses(&[ErrorCode::TokenRequired, ErrorCode::InvalidToken]),
    ]
}

/// What the two kinds of streams have in common.
fn streaming(call: Call) -> Call {
    let updates = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["all", "rate"]))
        .default(Some("all".into()));
    let position = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[0-9]{1,15}:[0-9]{1,15}$"));
    let heartbeat = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1_000))
        .maximum(Some(60_000));
    call.takes(in_query(
        "since",
        "Where the client was, as `EPOCH:SEQ` of the last message that it got: the events since then \
         follow, or the first message says `resumed: false`.",
        position.build(),
    ))
    .takes(in_query(
        "updates",
        "`all`: the balance at every change. `rate`: only when the rate, the session or the wallet \
         changes, and every 30 seconds; the client counts down between.",
        updates.build(),
    ))
    .takes(in_query(
        "heartbeat_ms",
        "For how long the stream may be silent, in ms: after that the balance is told again. By that a \
         browser's page, which sees no pings, can tell a dead connection from a quiet one.",
        heartbeat.build(),
    ))
    .knows::<StreamMessage>()
    .refuses(&[
        ErrorCode::InvalidField,
        ErrorCode::RateLimited,
        ErrorCode::Unavailable,
    ])
}

const EVENT_STREAM: &str = "\
For clients behind proxies that break websockets. Each message is an event without a name, with a \
`StreamMessage` as its data and its position as its id, so that an `EventSource` that comes back goes \
on where it was, also by the ticket that it first had. Where such a client is refused for now, it gets a \
stream all the same, which ends at once: at any other status it would never come back. Before the server ends the stream it sends an event named `close` with \
`{\"code\": …, \"reason\": …}`, the close code of a websocket.";

const WEBSOCKET: &str = "\
The same at `/`. Clients only listen. The first message is a `credit_update` with the balance now, \
and there is one at every change. Events, which is every other type, are numbered one by one.

| close code | why | come back? |
|---|---|---|
| 1001 | the server is going away | yes, after a jittered wait |
| 1002, 1007 | you broke the protocol of websockets | yes |
| 1008 | \"Authentication required\" without a token, \"Invalid token\" with a bad one | not with this token |
| 1009 | a message of yours was too large | yes |
| 1013 | too many sockets, or too busy | yes, later |
| 4000 | you were too slow to take your events | yes, at once |
| 4001 | you sent too much; clients have nothing to say | yes, later |";

fn operation() -> Vec<Call> {
    const TAG: &str = "operation";
    let plain = |description: &str| {
        ResponseBuilder::new()
            .description(description)
            .content("text/plain", Content::new(Some(text())))
    };
    let metrics = ResponseBuilder::new()
        .description(
            "The metrics: in Prometheus's text form, or in that of OpenMetrics if `Accept` names it.",
        )
        .content("text/plain", Content::new(Some(text())))
        .content("application/openmetrics-text", Content::new(Some(text())));
    let document = ResponseBuilder::new()
        .description("This document.")
        .content("application/json", Content::new(Some(object())))
        .header_ref("ETag", header("ETag"));
    vec![
        Call::get("/api/openapi.json", "openapi")
            .says(TAG, "This document", "")
            .takes(
                parameter(
                    ParameterIn::Header,
                    "If-None-Match",
                    "The `ETag` of what the caller has.",
                    text(),
                )
                .build(),
            )
            .answers_with(200, document)
            .answers_with(
                304,
                ResponseBuilder::new()
                    .description("The caller has it.")
                    .header_ref("ETag", header("ETag")),
            ),
        Call::get("/healthz", "alive")
            .says(TAG, "Whether the process is alive", "")
            .answers_with(200, plain("It is.")),
        Call::get("/readyz", "ready")
            .says(
                TAG,
                "Whether requests can be served",
                "They can't while the database is away and once the process is told to end.",
            )
            .answers_with(200, plain("They can."))
            .refuses(&[ErrorCode::Unavailable]),
        Call::get("/metrics", "metrics")
            .says(
                TAG,
                "What is counted and measured, for Prometheus",
                "For the networks only that the settings name.",
            )
            .answers_with(200, metrics)
            .refuses(&[ErrorCode::NotFound]),
    ]
}

/// A body that says nothing.
#[derive(ToSchema)]
#[schema(example = json!({}))]
struct Empty {}

fn limit() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(100))
        .default(Some(20.into()))
        .build()
}

fn text() -> Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

fn object() -> Object {
    ObjectBuilder::new().schema_type(Type::Object).build()
}
