//! The calls of the HTTP API: how each is written, and how its answer is read. Sending them is the
//! browser's part.

use std::fmt;

use schema::{
    ErrorBody, ErrorCode, Millis,
    account::{Authenticated, ChangePassword, EmailAndPassword, LogOut, Ticket, User},
    session::{Active, SessionStarted, SessionStopped},
};

use crate::feed::{Ask, Page};

/// How many rows a page of history has.
const ROWS_PER_PAGE: u32 = 20;

/// The longest wait that the page takes a server's word for.
const RETRY_AFTER_MAX: Millis = match Millis::new(3_600_000) {
    Ok(millis) => millis,
    Err(_) => Millis::MAX,
};

/// A bearer token. It prints as nothing, so that it can't reach a log by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token with this text.
    pub const fn new(token: String) -> Self {
        Self(token)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What somebody typed to sign up or log in. Prints as nothing either.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(pub EmailAndPassword);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// What somebody typed to change the password. Prints as nothing either.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordChange(pub ChangePassword);

impl fmt::Debug for PasswordChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordChange")
    }
}

/// The name of one attempt to start or stop, however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(u128);

impl IdempotencyKey {
    /// The key made of these random bits.
    pub const fn new(entropy: u128) -> Self {
        Self(entropy)
    }
}

/// A call of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Make an account.
    SignUp(Credentials),
    /// Get a token for an account.
    LogIn(Credentials),
    /// Make the token worthless.
    LogOut,
    /// Make all of the user's tokens worthless.
    LogOutEverywhere,
    /// Change the password, and make all other tokens worthless.
    ChangePassword(PasswordChange),
    /// Ask whose token it is.
    WhoAmI,
    /// Ask for a ticket that opens a websocket.
    Ticket,
    /// Start a session.
    Start(IdempotencyKey),
    /// Stop the session.
    Stop(IdempotencyKey),
    /// Ask for the balance and the live session.
    Active,
    /// Ask for sessions.
    Sessions(Ask),
    /// Ask for movements of the wallet.
    Ledger(Ask),
}

/// A call as HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path and query.
    pub path: String,
    /// The JSON body, if there is one.
    pub body: Option<String>,
    /// The value of `Idempotency-Key`, if the call has one.
    pub idempotency_key: Option<String>,
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To signing up and logging in.
    Authenticated(Token, Box<User>),
    /// To logging out.
    LoggedOut,
    /// To changing the password.
    PasswordChanged,
    /// To asking whose token it is.
    User(Box<User>),
    /// To asking for a ticket: a secret for half a minute.
    Ticket(Token),
    /// To starting.
    Started(SessionStarted),
    /// To stopping.
    Stopped(SessionStopped),
    /// To asking for the balance.
    Active(Box<Active>),
    /// To asking for sessions.
    Sessions(Page<schema::session::SessionRecord>),
    /// To asking for movements.
    Ledger(Page<schema::ledger::LedgerEntry>),
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server said no.
    Refused(Refusal),
    /// The server wasn't reached, or the connection broke before it answered.
    NoConnection,
    /// The server didn't answer in time.
    TimedOut,
}

/// The server's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name, if it is one that this page knows.
    pub code: Option<ErrorCode>,
    /// A sentence for people.
    pub sentence: String,
    /// The field that is wrong, if one is.
    pub field: Option<String>,
    /// When to come back, if the server said so.
    pub retry_after: Option<Millis>,
}

impl Failure {
    /// What to tell the user.
    pub fn sentence(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.sentence.clone(),
            Self::NoConnection => "The server can't be reached. Check your connection.".to_owned(),
            Self::TimedOut => "The server takes too long to answer.".to_owned(),
        }
    }

    /// The server's name for it.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::NoConnection | Self::TimedOut => None,
        }
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Millis> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::NoConnection | Self::TimedOut => None,
        }
    }

    /// Whether the token is no good any more.
    pub fn ends_login(&self) -> bool {
        matches!(
            self.code(),
            Some(ErrorCode::TokenRequired | ErrorCode::InvalidToken)
        )
    }

    /// Whether the call may have been carried out all the same.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code == Some(ErrorCode::OutcomeUnknown),
            Self::NoConnection | Self::TimedOut => true,
        }
    }
}

impl Call {
    /// How long the answer may take before the page gives up on it, in ms.
    ///
    /// Passwords are hashed in turn, which may take a while. All else is answered by the server within the
    /// 5 s of `limits.call_timeout_ms`, if only by saying that it doesn't know: past that the connection is
    /// dead, and the sooner the user learns it the better. A command is sent again by the same name, so
    /// one that a slower server still works on is not carried out twice.
    pub const fn answer_within_ms(&self) -> u32 {
        match self {
            Self::SignUp(_) | Self::LogIn(_) | Self::ChangePassword(_) => 20_000,
            _ => 7_000,
        }
    }

    /// The call as HTTP. The token comes with it from elsewhere.
    pub fn to_http(&self) -> HttpRequest {
        let get = |path: String| HttpRequest {
            method: "GET",
            path,
            body: None,
            idempotency_key: None,
        };
        let post = |path: &str| HttpRequest {
            method: "POST",
            ..get(path.to_owned())
        };
        let with_body = |path, body: serde_json::Result<String>| HttpRequest {
            body: body.ok(),
            ..post(path)
        };
        let credentials =
            |path, typed: &Credentials| with_body(path, serde_json::to_string(&typed.0));
        let with_key = |path, key: &IdempotencyKey| HttpRequest {
            idempotency_key: Some(format!("{:032x}", key.0)),
            ..post(path)
        };
        match self {
            Self::SignUp(typed) => credentials("/api/auth/signup", typed),
            Self::LogIn(typed) => credentials("/api/auth/login", typed),
            Self::LogOut => post("/api/auth/logout"),
            Self::LogOutEverywhere => {
                let everywhere = LogOut { everywhere: true };
                with_body("/api/auth/logout", serde_json::to_string(&everywhere))
            }
            Self::ChangePassword(change) => {
                with_body("/api/auth/password", serde_json::to_string(&change.0))
            }
            Self::WhoAmI => get("/api/auth/me".to_owned()),
            Self::Ticket => post("/api/ws/ticket"),
            Self::Start(key) => with_key("/api/sessions/start", key),
            Self::Stop(key) => with_key("/api/sessions/stop", key),
            Self::Active => get("/api/sessions/active".to_owned()),
            Self::Sessions(ask) => get(page_path("/api/sessions", ask)),
            Self::Ledger(ask) => get(page_path("/api/ledger", ask)),
        }
    }

    /// Reads the server's reply to the call.
    pub fn read(
        &self,
        status: u16,
        retry_after: Option<&str>,
        body: &str,
    ) -> Result<Answer, Failure> {
        if !(200..300).contains(&status) {
            return Err(Failure::Refused(read_refusal(status, retry_after, body)));
        }
        let answer = match self {
            Self::SignUp(_) | Self::LogIn(_) => {
                serde_json::from_str(body).map(|Authenticated { token, user, .. }| {
                    Answer::Authenticated(Token(token), Box::new(user))
                })
            }
            Self::LogOut | Self::LogOutEverywhere => Ok(Answer::LoggedOut),
            Self::ChangePassword(_) => Ok(Answer::PasswordChanged),
            Self::WhoAmI => serde_json::from_str(body).map(Answer::User),
            Self::Ticket => serde_json::from_str::<Ticket>(body)
                .map(|ticket| Answer::Ticket(Token(ticket.ticket))),
            Self::Start(_) => serde_json::from_str(body).map(Answer::Started),
            Self::Stop(_) => serde_json::from_str(body).map(Answer::Stopped),
            Self::Active => serde_json::from_str(body).map(Answer::Active),
            Self::Sessions(_) => serde_json::from_str::<schema::session::SessionPage>(body)
                .map(|page| Answer::Sessions(page.into())),
            Self::Ledger(_) => serde_json::from_str::<schema::ledger::LedgerPage>(body)
                .map(|page| Answer::Ledger(page.into())),
        };
        answer.map_err(|_| {
            let sentence =
                "The server speaks a newer language than this page. Reload the page.".to_owned();
            Failure::Refused(Refusal {
                code: None,
                sentence,
                field: None,
                retry_after: None,
            })
        })
    }
}

fn page_path(path: &str, ask: &Ask) -> String {
    match &ask.cursor {
        Some(cursor) => format!("{path}?limit={ROWS_PER_PAGE}&cursor={}", escaped(cursor)),
        None => format!("{path}?limit={ROWS_PER_PAGE}"),
    }
}

/// `text` as a part of an address's query.
pub fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    let parts: Vec<String> = text.bytes().map(escape).collect();
    parts.concat()
}

fn read_refusal(status: u16, retry_after: Option<&str>, body: &str) -> Refusal {
    let seconds = retry_after.and_then(|seconds| seconds.trim().parse::<u32>().ok());
    let retry_after = seconds
        .and_then(|seconds| Millis::new(i64::from(seconds) * 1_000).ok())
        .map(|wait| wait.min(RETRY_AFTER_MAX));
    match serde_json::from_str(body) {
        Ok(ErrorBody { error, code, field }) => Refusal {
            code: Some(code),
            sentence: error,
            field,
            retry_after,
        },
        // Something between the server and here answered, or a server newer than this page.
        Err(_) => Refusal {
            code: None,
            sentence: format!("The server can't do that (status {status})."),
            field: None,
            retry_after,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(cursor: Option<&str>) -> Ask {
        Ask {
            number: 1,
            cursor: cursor.map(str::to_owned),
        }
    }

    #[test]
    fn calls_are_written_as_the_contract_says() {
        let check = |call: Call, method, path: &str| {
            let request = call.to_http();
            assert_eq!((request.method, request.path.as_str()), (method, path));
            request
        };
        let credentials = Credentials(EmailAndPassword {
            email: "ada@example.com".into(),
            password: "correct horse".into(),
        });
        let signup = check(
            Call::SignUp(credentials.clone()),
            "POST",
            "/api/auth/signup",
        );
        assert_eq!(
            signup.body.as_deref(),
            Some(r#"{"email":"ada@example.com","password":"correct horse"}"#)
        );
        check(Call::LogIn(credentials), "POST", "/api/auth/login");
        check(Call::LogOut, "POST", "/api/auth/logout");
        check(Call::WhoAmI, "GET", "/api/auth/me");
        let start = check(
            Call::Start(IdempotencyKey(10)),
            "POST",
            "/api/sessions/start",
        );
        assert_eq!(
            start.idempotency_key.as_deref(),
            Some("0000000000000000000000000000000a")
        );
        check(Call::Stop(IdempotencyKey(1)), "POST", "/api/sessions/stop");
        check(Call::Active, "GET", "/api/sessions/active");
        check(Call::Sessions(ask(None)), "GET", "/api/sessions?limit=20");
        check(
            Call::Ledger(ask(Some("a/b+c=&d"))),
            "GET",
            "/api/ledger?limit=20&cursor=a%2Fb%2Bc%3D%26d",
        );
    }

    #[test]
    fn answers_are_read() {
        let token = r#"{"message":"Login successful","token":"v4.local.x","user":
            {"id":7,"email":"ada@example.com","credits":100,"asOf":5,"createdAt":4,"more":true}}"#;
        let call = Call::LogIn(Credentials(EmailAndPassword {
            email: String::new(),
            password: String::new(),
        }));
        let Ok(Answer::Authenticated(token, user)) = call.read(200, None, token) else {
            panic!("not read")
        };
        assert_eq!(
            (token.as_str(), user.credits.get(), user.session),
            ("v4.local.x", 100, None)
        );

        let active = r#"{"active":true,"credits":95,"asOf":9,"sessionId":3,"startedAt":1,"consumed":5,
            "creditsPerInterval":1,"intervalMs":6000,"nextChargeAt":null,"depletesAt":null}"#;
        let Ok(Answer::Active(active)) = Call::Active.read(200, None, active) else {
            panic!("not read")
        };
        assert_eq!(
            active.balance.session.map(|session| session.consumed.get()),
            Some(5)
        );

        assert_eq!(Call::LogOut.read(200, None, ""), Ok(Answer::LoggedOut));
    }

    #[test]
    fn refusals_are_read() {
        let check = |status, retry_after, body, code, sentence: &str, wait: Option<i64>| {
            let Err(Failure::Refused(refusal)) = Call::Active.read(status, retry_after, body)
            else {
                panic!("{body} is no refusal")
            };
            assert_eq!((refusal.code, refusal.sentence.as_str()), (code, sentence));
            assert_eq!(refusal.retry_after.map(Millis::get), wait);
        };
        let taken = r#"{"error":"Somebody has signed up with that email","code":"email_taken"}"#;
        check(
            409,
            None,
            taken,
            Some(ErrorCode::EmailTaken),
            "Somebody has signed up with that email",
            None,
        );
        let busy = r#"{"error":"Too many requests","code":"rate_limited"}"#;
        check(
            429,
            Some("12"),
            busy,
            Some(ErrorCode::RateLimited),
            "Too many requests",
            Some(12_000),
        );
        check(
            429,
            Some("99999999"),
            busy,
            Some(ErrorCode::RateLimited),
            "Too many requests",
            Some(3_600_000),
        );
        check(
            502,
            Some("soon"),
            "<html>",
            None,
            "The server can't do that (status 502).",
            None,
        );
        let newer = "The server speaks a newer language than this page. Reload the page.";
        check(200, None, r#"{"active":"yes"}"#, None, newer, None);
    }

    #[test]
    fn secrets_print_as_nothing() {
        let credentials = Credentials(EmailAndPassword {
            email: "ada".into(),
            password: "correct horse".into(),
        });
        let printed = format!("{:?} {:?}", Call::LogIn(credentials), Token("v4".into()));
        assert_eq!(printed, "LogIn(Credentials) Token");
    }
}
