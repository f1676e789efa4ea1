//! `/api/openapi.json`: the description of the API.

use std::{fmt::Write, sync::LazyLock};

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{CACHE_CONTROL, ETAG, HeaderValue},
};
use sha2::{Digest, Sha256};

use crate::{
    reply::{self, Reply},
    request,
};

/// The document, made from the types of `schema`.
const DOCUMENT: &str = include_str!("../../../schema/openapi.json");

/// The document's `ETag`: a part of its hash.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let digest: [u8; 32] = Sha256::digest(DOCUMENT).into();
    let mut tag = String::from("\"");
    for byte in digest.iter().take(12) {
        // Writing to a string can't fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag + "\""
});

/// `GET /api/openapi.json`
pub fn openapi(headers: &HeaderMap) -> Reply {
    let mut reply = if request::knows(headers, &TAG) {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        let body = Bytes::from_static(DOCUMENT.as_bytes());
        reply::with_type(StatusCode::OK, "application/json", body)
    };
    // It may be kept, and is asked for anew.
    reply
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(&TAG) {
        reply.headers_mut().insert(ETAG, tag);
    }
    reply
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::DOCUMENT;
    use crate::routes::TABLE;

    #[test]
    fn the_document_and_the_routes_name_the_same_calls() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let described: BTreeSet<_> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        let routed: BTreeSet<_> = TABLE
            .iter()
            .flat_map(|(path, methods)| {
                methods
                    .iter()
                    .map(move |(method, _)| format!("{method} {path}"))
            })
            .collect();
        assert_eq!(
            described, routed,
            "what schema/src/openapi/calls.rs lists, and what routes.rs does"
        );
    }
}
