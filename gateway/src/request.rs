//! Reading requests: bodies within bounds of size and time, JSON with names for what is wrong,
//! query parameters.

use std::borrow::Cow;

use bytes::Bytes;
use engine::keys::{Fingerprint, IdempotencyKey, RequestKey};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request,
    body::{Body, Incoming},
    header::{CONTENT_TYPE, IF_NONE_MATCH},
};
use schema::ErrorCode;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{reply::Failure, settings::HttpSettings};

/// The header that names a request, so that it can be sent again.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The fields of a JSON object that came as a body.
#[derive(Debug, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The text in `field`.
    pub fn text(&mut self, field: &'static str) -> Result<String, Failure> {
        match self.0.remove(field) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(wrong(field, "must be a text")),
            None => Err(wrong(field, "is missing")),
        }
    }

    /// Whether `field` is set; it may be absent.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, Failure> {
        match self.0.remove(field) {
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(wrong(field, "must be true or false")),
            None => Ok(false),
        }
    }
}

fn wrong(field: &'static str, what: &str) -> Failure {
    Failure::field(
        ErrorCode::InvalidField,
        field,
        format!("The field {field} {what}."),
    )
}

/// Reads a body that should be a JSON object. No body at all is an object without fields.
pub async fn fields(
    headers: &HeaderMap,
    body: Incoming,
    limits: &HttpSettings,
) -> Result<Fields, Failure> {
    parse(headers, &bytes(body, limits).await?)
}

/// Reads a command: a request that says nothing in its body that matters, and may have an idempotency
/// key. The body must be none or JSON. Returns the key with what was asked for.
pub async fn command(
    request: Request<Incoming>,
    limits: &HttpSettings,
) -> Result<Option<RequestKey>, Failure> {
    let key = idempotency_key(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = bytes(body, limits).await?;
    parse(&parts.headers, &body)?;
    Ok(key.map(|key| RequestKey {
        key,
        fingerprint: fingerprint(&parts.method, parts.uri.path(), &body),
    }))
}

/// The value of the `Idempotency-Key` header.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Failure> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(wrong_key("must come once"));
    }
    IdempotencyKey::new(value.as_bytes())
        .map(Some)
        .map_err(|_| wrong_key("must have 1 to 255 visible ASCII characters"))
}

fn wrong_key(what: &str) -> Failure {
    Failure::field(
        ErrorCode::InvalidField,
        IDEMPOTENCY_KEY,
        format!("The header {IDEMPOTENCY_KEY} {what}."),
    )
}

/// The SHA-256 of what a request asks for. A method and a path have no line feed.
fn fingerprint(method: &Method, path: &str, body: &[u8]) -> Fingerprint {
    let digest = Sha256::new()
        .chain_update(method.as_str())
        .chain_update("\n")
        .chain_update(path)
        .chain_update("\n")
        .chain_update(body);
    Fingerprint::new(digest.finalize().into())
}

/// The fields of a body that should be a JSON object.
fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Fields, Failure> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Fields::default());
    }
    if !is_json(headers) {
        let sentence = "The body must be JSON, with the content type application/json.";
        return Err(Failure::new(ErrorCode::UnsupportedMediaType, sentence));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(Fields(fields)),
        Ok(_) => Err(Failure::new(
            ErrorCode::InvalidJson,
            "The body must be a JSON object.",
        )),
        Err(error) => {
            let place = format!("line {}, column {}", error.line(), error.column());
            Err(Failure::new(
                ErrorCode::InvalidJson,
                format!("The body is not JSON: see {place}."),
            ))
        }
    }
}

/// Whether the body says that it is JSON. Old clients don't always say what it is.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let essence = content_type
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn bytes(body: Incoming, limits: &HttpSettings) -> Result<Bytes, Failure> {
    let (bytes_max, timeout) = (limits.body_bytes_max, limits.body_timeout);
    let too_large = || {
        let sentence = format!("The body must not exceed {bytes_max} bytes.");
        Failure::new(ErrorCode::BodyTooLarge, sentence).closing()
    };
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(timeout, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Failure::new(ErrorCode::InvalidRequest, "The body broke off.").closing()),
        Err(_) => Err(Failure::new(
            ErrorCode::RequestTimeout,
            "The body took too long to arrive.",
        )
        .closing()),
    }
}

/// Whether the client has already what `tag`, an `ETag`, names.
pub fn knows(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|known| known.trim().trim_start_matches("W/") == tag || known.trim() == "*")
}

/// The value of the query parameter `name`, the first if there are more.
pub fn query<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_decoded() {
        assert_eq!(
            query(Some("a=1&token=v4.local.x%2By&token=z"), "token").as_deref(),
            Some("v4.local.x+y")
        );
        assert_eq!(query(Some("a=1"), "token"), None);
        assert_eq!(query(None, "token"), None);
    }

    #[test]
    fn json_is_told_by_its_type() {
        let check = |content_type: Option<&'static str>, expected: bool| {
            let headers = content_type
                .map(|value| (CONTENT_TYPE, value.parse().unwrap()))
                .into_iter()
                .collect();
            assert_eq!(is_json(&headers), expected, "{content_type:?}");
        };
        check(None, true);
        check(Some("application/json"), true);
        check(Some("Application/JSON; charset=utf-8"), true);
        check(Some("application/problem+json"), true);
        check(Some("text/plain"), false);
        check(Some("application/x-www-form-urlencoded"), false);
    }
}
