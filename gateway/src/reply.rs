//! Replies: a value as JSON, or a failure with its sentence, code and status.

use std::{borrow::Cow, convert::Infallible, error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use engine::{
    engine::{BalanceError, StartError, StopError},
    store::StoreError,
};
use http_body_util::{Either, Full, channel::Channel};
use hyper::{
    Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
        HeaderName, HeaderValue, REFERRER_POLICY, RETRY_AFTER, SEC_WEBSOCKET_VERSION,
        STRICT_TRANSPORT_SECURITY, UPGRADE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
        X_FRAME_OPTIONS,
    },
};
use schema::{ErrorBody, ErrorCode, Millis};
use serde::Serialize;

use crate::{
    access::AccessError, cause::chain, client::Transport, passwords::PasswordError,
    tokens::TokenNotMade,
};

/// What goes back to the client.
pub type Reply = Response<Body>;

/// All of it at once, or an event stream.
pub type Body = Either<Full<Bytes>, Channel<Bytes, Infallible>>;

/// Why a request was refused.
#[derive(Debug)]
pub struct Failure {
    code: ErrorCode,
    sentence: Cow<'static, str>,
    field: Option<&'static str>,
    allow: Option<HeaderValue>,
    closes_connection: bool,
    /// When to come back, with 429 and 503.
    retry_after_seconds: i64,
    /// For the log, not for the client.
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// The failure `code`, and what it means in a sentence for people.
    pub fn new(code: ErrorCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            sentence: sentence.into(),
            field: None,
            allow: None,
            closes_connection: false,
            retry_after_seconds: 1,
            cause: None,
        }
    }

    /// The request's `field` is wrong.
    pub fn field(
        code: ErrorCode,
        field: &'static str,
        sentence: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            field: Some(field),
            ..Self::new(code, sentence)
        }
    }

    /// What it is called.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// There is nothing there.
    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound, "There is nothing at this address.")
    }

    /// There is something there, but not for that method.
    pub fn method_not_allowed(allow: HeaderValue) -> Self {
        let sentence = "This address does not take that method.";
        Self {
            allow: Some(allow),
            ..Self::new(ErrorCode::MethodNotAllowed, sentence)
        }
    }

    /// A page of an origin that may not come.
    pub fn origin_not_allowed() -> Self {
        Self::new(
            ErrorCode::OriginNotAllowed,
            "Pages of this origin may not use this server.",
        )
    }

    /// A fault of ours because of `cause`.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ErrorCode::Internal, "Something went wrong on our side.").caused_by(cause)
    }

    /// Nothing was done, and later it may be.
    pub fn unavailable() -> Self {
        Self::new(
            ErrorCode::Unavailable,
            "The server can't do that just now. Please try again in a moment.",
        )
    }

    /// There was too much of that kind; it can be tried again after `wait`.
    pub fn rate_limited(sentence: &'static str, wait: Millis) -> Self {
        Self {
            retry_after_seconds: seconds_up(wait).max(1),
            ..Self::new(ErrorCode::RateLimited, sentence)
        }
    }

    /// The process can't serve requests, because of what the sentence says.
    pub fn not_ready(sentence: &'static str) -> Self {
        Self::new(ErrorCode::Unavailable, sentence)
    }

    /// The key was used for something else.
    pub fn key_conflict() -> Self {
        Self::new(
            ErrorCode::IdempotencyConflict,
            "This Idempotency-Key was used for another request. Use a new one for each.",
        )
    }

    /// It may or may not have been done.
    pub fn outcome_unknown() -> Self {
        let sentence =
            "The server can't say yet whether that was done. Please send the same request again.";
        Self::new(ErrorCode::OutcomeUnknown, sentence)
    }

    /// A write that failed. One that took too long is told like one whose COMMIT was not answered, as
    /// callers know it; any other was not done.
    pub fn of_write(error: StoreError) -> Self {
        if error.is_outcome_unknown() || matches!(error, StoreError::TimedOut(_)) {
            return Self::outcome_unknown().caused_by(error);
        }
        error.into()
    }

    /// How long it takes until the same request may succeed, in ms; None if it won't by itself.
    pub fn passes_after(&self) -> Option<i64> {
        matches!(self.code, ErrorCode::RateLimited | ErrorCode::Unavailable)
            .then_some(self.retry_after_seconds.saturating_mul(1_000))
    }

    /// The address is for websockets of the one version that there is.
    pub fn upgrade_required() -> Self {
        Self::new(
            ErrorCode::UpgradeRequired,
            "This address takes version 13 of the websocket protocol only.",
        )
    }

    /// The same failure, after which the connection is of no use.
    #[must_use]
    pub fn closing(self) -> Self {
        Self {
            closes_connection: true,
            ..self
        }
    }

    fn caused_by(self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..self
        }
    }

    /// The reply that tells it. Its cause is logged here, once.
    pub fn into_reply(self) -> Reply {
        if let Some(cause) = &self.cause {
            log_cause(self.code, cause.as_ref());
        }
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody {
            error: self.sentence.into_owned(),
            code: self.code,
            field: self.field.map(ToOwned::to_owned),
        };
        let mut reply = json(status, &body);
        let headers = reply.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            headers.insert(RETRY_AFTER, HeaderValue::from(self.retry_after_seconds));
        }
        if matches!(
            self.code,
            ErrorCode::TokenRequired | ErrorCode::InvalidToken
        ) {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.code == ErrorCode::UpgradeRequired {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if self.closes_connection {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Arc::new(error).into()
    }
}

impl From<Arc<StoreError>> for Failure {
    fn from(error: Arc<StoreError>) -> Self {
        if error.is_transient() {
            Self::unavailable().caused_by(error)
        } else {
            Self::internal(error)
        }
    }
}

impl From<TokenNotMade> for Failure {
    fn from(error: TokenNotMade) -> Self {
        Self::internal(error)
    }
}

impl From<PasswordError> for Failure {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::unavailable(),
            PasswordError::Failed(_) => Self::internal(error),
        }
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::TokenRequired => Self::new(
                ErrorCode::TokenRequired,
                "Please log in: this needs a bearer token.",
            ),
            AccessError::InvalidToken => Self::new(
                ErrorCode::InvalidToken,
                "The token is not valid any more. Please log in again.",
            ),
            AccessError::Busy => Self::unavailable(),
            AccessError::Store(error) => error.into(),
        }
    }
}

impl From<BalanceError> for Failure {
    fn from(error: BalanceError) -> Self {
        match error {
            BalanceError::UserUnknown => AccessError::InvalidToken.into(),
            BalanceError::Unavailable => Self::unavailable(),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::UserUnknown => AccessError::InvalidToken.into(),
            StartError::SessionActive => {
                Self::new(ErrorCode::SessionActive, "A session is running already.")
            }
            StartError::InsufficientCredits => Self::new(
                ErrorCode::InsufficientCredits,
                "There are not enough credits to start a session.",
            ),
            StartError::KeyConflict => Self::key_conflict(),
            StartError::TooManyUnpaid { retry_after } => {
                let sentence = "Too many sessions were stopped before they cost anything. Please come back later.";
                Self {
                    retry_after_seconds: seconds_up(retry_after),
                    ..Self::new(ErrorCode::TooManyUnpaidSessions, sentence)
                }
            }
            StartError::Unavailable => Self::unavailable(),
            StartError::OutcomeUnknown => Self::outcome_unknown(),
        }
    }
}

impl From<StopError> for Failure {
    fn from(error: StopError) -> Self {
        match error {
            StopError::NoActiveSession => {
                Self::new(ErrorCode::NoActiveSession, "No session is running.")
            }
            StopError::KeyConflict => Self::key_conflict(),
            StopError::Unavailable => Self::unavailable(),
            StopError::OutcomeUnknown => Self::outcome_unknown(),
        }
    }
}

/// The length in whole seconds, rounded up: who comes back then doesn't come too early.
fn seconds_up(length: Millis) -> i64 {
    length.get() / 1_000 + i64::from(length.get() % 1_000 > 0)
}

/// `value` as JSON. Nothing of the API is for caches.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, "application/json", body.into()),
        Err(error) => {
            log_cause(ErrorCode::Internal, &error);
            with_type(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                Bytes::new(),
            )
        }
    }
}

/// A reply without a body.
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Either::Left(Full::default()));
    *reply.status_mut() = status;
    reply
}

/// `body` as it is, for no cache to keep.
pub fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = empty(status);
    let length = HeaderValue::from(body.len());
    *reply.body_mut() = Either::Left(Full::new(body));
    for (name, value) in [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CONTENT_LENGTH, length),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ] {
        reply.headers_mut().insert(name, value);
    }
    reply
}

/// The headers that every reply has. What says nothing of what it may load may load nothing.
pub fn harden(reply: &mut Reply, transport: Transport, hsts: Duration) {
    const ALWAYS: [(HeaderName, &str); 6] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ];
    let headers = reply.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    if transport == Transport::Tls && !hsts.is_zero() {
        let value = format!("max-age={}; includeSubDomains", hsts.as_secs());
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(STRICT_TRANSPORT_SECURITY, value);
        }
    }
}

/// Writes `cause` with all that caused it into the log.
fn log_cause(code: ErrorCode, cause: &(dyn Error + 'static)) {
    let cause = chain(cause);
    if code == ErrorCode::Internal {
        tracing::error!(?code, cause, "a request failed");
    } else {
        tracing::warn!(?code, cause, "a request failed");
    }
}
