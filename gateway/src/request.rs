//! Reading requests: bodies within bounds of size and time, JSON with names for what is wrong,
//! query parameters.

use std::borrow::Cow;

use bytes::Bytes;
use engine::keys::{Fingerprint, IdempotencyKey, RequestKey};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Version,
    body::{Body, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, IF_NONE_MATCH, TRANSFER_ENCODING},
    http::uri::Authority,
};
use schema::ErrorCode;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{reply::Failure, routes::wrong_parameter, settings::HttpSettings};

/// The header that names a request, so that it can be sent again.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The fields of a JSON object that came as a body.
#[derive(Debug, Default)]
pub struct Fields(Map<String, Value>);

/// A JSON object in which no field comes twice: of two, one reader takes the first and another the last.
struct Unambiguous(Map<String, Value>);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Unambiguous;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Unambiguous, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = given.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom("a field comes twice"));
                    }
                }
                Ok(Unambiguous(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

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
        let sentence = "The body must be JSON in UTF-8, with the content type application/json.";
        return Err(Failure::new(ErrorCode::UnsupportedMediaType, sentence));
    }
    if !is_plain(headers) {
        let sentence = "The body must not be compressed.";
        return Err(Failure::new(ErrorCode::UnsupportedMediaType, sentence));
    }
    serde_json::from_slice(body)
        .map(|Unambiguous(fields)| Fields(fields))
        .map_err(|error| Failure::new(ErrorCode::InvalidJson, what_is_wrong(&error)))
}

fn what_is_wrong(error: &serde_json::Error) -> String {
    if !error.is_data() {
        let (line, column) = (error.line(), error.column());
        return format!("The body is not JSON: see line {line}, column {column}.");
    }
    "The body must be a JSON object in which no field comes twice.".to_owned()
}

/// Whether the body says that it is JSON. Old clients don't always say what it is.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let content_type = content_type
        .to_str()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    is_json
        && parts.all(|parameter| {
            let charset = parameter.strip_prefix("charset=");
            let charset = charset.map(|charset| charset.trim_matches('"'));
            charset.is_none_or(|charset| ["utf-8", "utf8", "us-ascii"].contains(&charset))
        })
}

/// Whether the body is as it is, in no encoding.
fn is_plain(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
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

/// Checks what HTTP asks of every request and hyper doesn't: one host, and no coding of the body but
/// chunks (RFC 9112, sections 3.2 and 6.1). Where readers differ on that, one of them can be deceived.
pub fn check_framing<B>(request: &Request<B>) -> Result<(), Failure> {
    let wrong = |sentence| Err(Failure::new(ErrorCode::InvalidRequest, sentence).closing());
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() || (host.is_none() && request.version() > Version::HTTP_10) {
        return wrong("A request must have one Host header.");
    }
    if !host.is_none_or(is_host) {
        return wrong("The Host header must be a host, perhaps with a port.");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let are_chunks = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !codings.next().is_none_or(are_chunks) || codings.next().is_some() {
        return wrong("This server takes no Transfer-Encoding but chunked.");
    }
    Ok(())
}

fn is_host(host: &HeaderValue) -> bool {
    let is_authority = Authority::try_from(host.as_bytes()).is_ok();
    host.is_empty() || (is_authority && !host.as_bytes().contains(&b'@'))
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

/// The value of the query parameter `name`. It may not come twice: readers differ on which one counts.
pub fn query<'a>(
    query: Option<&'a str>,
    name: &'static str,
) -> Result<Option<Cow<'a, str>>, Failure> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut values = pairs.filter(|(key, _)| key == name).map(|(_, value)| value);
    let value = values.next();
    if values.next().is_some() {
        return Err(wrong_parameter(name, "must come once"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_decoded_and_come_once() {
        let value = |text, name| query(text, name).map(|value| value.map(Cow::into_owned));
        let given = Some("a=1&token=v4.local.x%2By&b=1&%62=2");
        let token = value(given, "token").unwrap();
        assert_eq!(token.as_deref(), Some("v4.local.x+y"));
        assert_eq!(value(given, "c").unwrap(), None);
        assert_eq!(value(None, "token").unwrap(), None);
        assert_eq!(
            value(given, "b").unwrap_err().code(),
            ErrorCode::InvalidField
        );
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
        check(Some("application/json;charset=\"UTF-8\""), true);
        check(Some("application/json; charset=us-ascii; x=y"), true);
        check(Some("application/problem+json"), true);
        check(Some("application/json; charset=utf-16"), false);
        check(Some("application/json; charset=iso-8859-1"), false);
        check(Some("text/plain"), false);
        check(Some("application/x-www-form-urlencoded"), false);
    }

    #[test]
    fn bodies_have_one_meaning() {
        let check = |body: &str, expected: Result<&str, ErrorCode>| {
            let read = parse(&HeaderMap::new(), body.as_bytes());
            let text = read.and_then(|mut fields| fields.text("a"));
            let told = text.as_deref().map_err(Failure::code);
            assert_eq!(told, expected, "{body:?}");
        };
        check(r#"{"a": "x"}"#, Ok("x"));
        check(r#" {"a": "x", "b": {"a": 1, "c": [1]}} "#, Ok("x"));
        check("", Err(ErrorCode::InvalidField));
        check(r#"{"a": 1}"#, Err(ErrorCode::InvalidField));
        for wrong in [
            r#"{"a": "x", "a": "y"}"#,
            r#"{"a": "x", "\u0061": "y"}"#,
            r#"{"b": 1, "b": 1, "a": "x"}"#,
            r#"["a"]"#,
            "null",
            "7",
            r#"{"a": "x"}{"a": "x"}"#,
            r#"{"a": "\ud800"}"#,
            "{'a': 'x'}",
            "\u{feff}{}",
        ] {
            check(wrong, Err(ErrorCode::InvalidJson));
        }
    }

    #[test]
    fn a_request_has_one_host_and_chunks_at_most() {
        let check = |version, lines: &[(&'static str, &str)], expected: bool| {
            let mut request = Request::new(());
            *request.version_mut() = version;
            for (name, value) in lines {
                request.headers_mut().append(*name, value.parse().unwrap());
            }
            assert_eq!(check_framing(&request).is_ok(), expected, "{lines:?}");
        };
        let host = ("host", "credit.example:8000");
        check(Version::HTTP_11, &[host], true);
        check(Version::HTTP_11, &[("host", "[::1]:8000")], true);
        check(Version::HTTP_11, &[("host", "")], true);
        check(Version::HTTP_11, &[], false);
        check(Version::HTTP_10, &[], true);
        check(Version::HTTP_10, &[host, host], false);
        for odd in ["a b", "me@host", "host/path", "a, b", "http://host"] {
            check(Version::HTTP_11, &[("host", odd)], false);
        }
        let coding = |coding: &'static str| ("transfer-encoding", coding);
        check(Version::HTTP_11, &[host, coding("chunked")], true);
        check(Version::HTTP_11, &[host, coding("Chunked")], true);
        for odd in ["gzip, chunked", "identity, chunked", "chunked, chunked", ""] {
            check(Version::HTTP_11, &[host, coding(odd)], false);
        }
        let twice = [host, coding("gzip"), coding("chunked")];
        check(Version::HTTP_11, &twice, false);
    }
}
