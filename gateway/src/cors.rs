//! What lets pages of other origins call the API: answers to their preflights, and the headers by which
//! their browser lets them read a reply (CORS, as the Fetch standard has it).
//!
//! Which origins may come is decided in `origins`. Such a page may send any header: what lets a caller in
//! is a bearer token, which a page must have, and never a cookie. So `credentials: "include"` is allowed
//! too, and adds nothing.

use hyper::{
    HeaderMap, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
        ALLOW, HeaderName, HeaderValue, VARY,
    },
};

use crate::{
    origins::Caller,
    reply::{self, Reply},
};

/// The headers that a page may send if it doesn't say which it wants to.
const USUAL_HEADERS: &str =
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id";
/// The headers of a reply that a page may read.
const READABLE_HEADERS: &str = "Allow, ETag, Retry-After, WWW-Authenticate, X-Request-Id";
/// For how long a browser need not ask again, in seconds; Chromium takes two hours at most.
const KNOWN_FOR_SECONDS: &str = "7200";
/// The longest list of headers that is granted, in bytes.
const LIST_BYTES_MAX: usize = 2_048;

/// Asked for by a page of the internet that calls a server in a private network.
const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
/// The answer to that.
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// What `OPTIONS` tells of an address that takes the methods in `allow`; and to an allowed page that it
/// may send what it wants to.
pub fn options(headers: &HeaderMap, allow: HeaderValue, caller: Caller) -> Reply {
    let mut reply = reply::empty(StatusCode::NO_CONTENT);
    let answer = reply.headers_mut();
    if caller == Caller::Allowed && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        let asked_for = "Access-Control-Request-Headers, Access-Control-Request-Method";
        answer.insert(VARY, HeaderValue::from_static(asked_for));
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, allow.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, granted(headers));
        let age = HeaderValue::from_static(KNOWN_FOR_SECONDS);
        answer.insert(ACCESS_CONTROL_MAX_AGE, age);
        if headers.contains_key(REQUEST_PRIVATE_NETWORK) {
            answer.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
    }
    answer.insert(ALLOW, allow);
    reply
}

/// The headers that a page may send: those that it asks for, if they are names.
fn granted(headers: &HeaderMap) -> HeaderValue {
    let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let mut names = Vec::new();
    for list in asked {
        let list = list.to_str().unwrap_or_default().split(',');
        let list = list.map(str::trim).filter(|name| !name.is_empty());
        names.extend(list.filter_map(|name| name.parse::<HeaderName>().ok()));
    }
    let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    let list = names.join(", ");
    let usual = HeaderValue::from_static(USUAL_HEADERS);
    if list.is_empty() || list.len() > LIST_BYTES_MAX {
        return usual;
    }
    HeaderValue::try_from(list).unwrap_or(usual)
}

/// Lets the page of an allowed origin read the reply, and caches know that it depends on that.
pub fn share_with(reply: &mut Reply, origin: Option<HeaderValue>) {
    let headers = reply.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (ACCESS_CONTROL_EXPOSE_HEADERS, READABLE_HEADERS),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_asks_to_send_is_granted_if_it_is_a_name() {
        let check = |asked: &[&str], expected: &str| {
            let mut headers = HeaderMap::new();
            for list in asked {
                headers.append(ACCESS_CONTROL_REQUEST_HEADERS, list.parse().unwrap());
            }
            assert_eq!(granted(&headers).to_str().unwrap(), expected, "{asked:?}");
        };
        check(&[], USUAL_HEADERS);
        check(&[""], USUAL_HEADERS);
        check(
            &["authorization,last-event-id"],
            "authorization, last-event-id",
        );
        check(&["X-One", " x-two ,, "], "x-one, x-two");
        check(&["x-one: evil, x-two"], "x-two");
        check(&["*, @"], "*");
        let endless = "x-a,".repeat(1_000);
        check(&[&endless], USUAL_HEADERS);
    }
}
