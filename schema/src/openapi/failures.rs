//! What each failure means, and how failures of one status look as one answer.

use std::collections::BTreeMap;

use utoipa::openapi::{Content, Ref, Response, ResponseBuilder, extensions::ExtensionsBuilder};

use crate::ErrorCode;

/// One answer of one status, for some codes.
pub(super) struct Answer {
    /// The status.
    pub(super) status: u16,
    /// The name that it is described under once for all calls.
    pub(super) name: String,
    /// The description.
    pub(super) response: Response,
}

/// The answers that tell `codes`, one for each status. The order of codes is kept.
pub(super) fn answers(codes: &[ErrorCode]) -> Vec<Answer> {
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in codes {
        let same = by_status.entry(code.status()).or_default();
        if !same.contains(code) {
            same.push(*code);
        }
    }
    by_status
        .into_iter()
        .map(|(status, codes)| Answer {
            status,
            name: codes
                .iter()
                .map(|code| name(*code))
                .collect::<Vec<_>>()
                .join("."),
            response: answer(status, &codes),
        })
        .collect()
}

fn answer(status: u16, codes: &[ErrorCode]) -> Response {
    let lines: Vec<_> = codes
        .iter()
        .map(|code| format!("`{}`: {}", name(*code), meaning(*code)))
        .collect();
    // All failures are of one type, for those who generate clients.
    let content = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    let codes_in_json: Vec<_> = codes.iter().map(|code| name(*code)).collect();
    let codes_of_call = ExtensionsBuilder::new()
        .add("x-error-codes", codes_in_json)
        .build();
    let mut response = ResponseBuilder::new()
        .description(lines.join("\n\n"))
        .content("application/json", content)
        .header_ref("X-Request-Id", header("X-Request-Id"))
        .extensions(Some(codes_of_call));
    if status == 426 {
        let version = "Sec-WebSocket-Version";
        response = response.header_ref(version, header(version));
    }
    if matches!(status, 429 | 503) {
        response = response.header_ref("Retry-After", header("Retry-After"));
    }
    let is_about_tokens =
        |code: &ErrorCode| matches!(code, ErrorCode::TokenRequired | ErrorCode::InvalidToken);
    if codes.iter().all(is_about_tokens) {
        response = response.header_ref("WWW-Authenticate", header("WWW-Authenticate"));
    }
    response.build()
}

/// A reference to the header that is described once for all answers.
pub(super) fn header(name: &str) -> Ref {
    Ref::new(format!("#/components/headers/{name}"))
}

/// The code as it stands in JSON.
pub(super) fn name(code: ErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("an error code is a text, not {other:?}"),
    }
}

/// What has happened, for who reads the description of a call.
const fn meaning(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidJson => "the body is not a JSON object.",
        ErrorCode::InvalidRequest => "the request can't be read, or broke off.",
        ErrorCode::TokenRequired => "there is no bearer token.",
        ErrorCode::InvalidToken => {
            "the token is forged, expired, revoked or not for this server. Log in again."
        }
        ErrorCode::InvalidCredentials => {
            "email and password don't belong together, or nobody has that email."
        }
        ErrorCode::InsufficientCredits => "the wallet can't pay for the first interval.",
        ErrorCode::OriginNotAllowed => {
            "a browser's page from an origin that `http.allowed_origins` doesn't list."
        }
        ErrorCode::NotFound => "there is nothing at this address, or nothing of yours.",
        ErrorCode::MethodNotAllowed => "the address doesn't take this method; see `Allow`.",
        ErrorCode::RequestTimeout => "the body took too long to arrive.",
        ErrorCode::EmailTaken => "somebody has signed up with this email.",
        ErrorCode::SessionActive => "a session is running already.",
        ErrorCode::NoActiveSession => "no session is running.",
        ErrorCode::IdempotencyConflict => "the key was used for another request.",
        ErrorCode::BodyTooLarge => "the body is larger than `http.body_bytes_max`.",
        ErrorCode::UnsupportedMediaType => "the body is not marked as `application/json`.",
        ErrorCode::UpgradeRequired => {
            "the request asks for another version of the websocket protocol than 13."
        }
        ErrorCode::InvalidField => {
            "a field, parameter or header is missing, of the wrong type or out of range; `field` names it."
        }
        ErrorCode::InvalidEmail => "`email` is not an email address.",
        ErrorCode::InvalidPassword => "the password is too short or too long.",
        ErrorCode::TooManyUnpaidSessions => {
            "too many sessions of the last hour were stopped before they cost anything."
        }
        ErrorCode::RateLimited => "too many requests of this kind.",
        ErrorCode::Internal => "a fault of ours; the log has its cause.",
        ErrorCode::Unavailable => "the server can't do that just now, and did nothing.",
        ErrorCode::OutcomeUnknown => {
            "nobody can say yet whether it was done. Send the same request again."
        }
    }
}
