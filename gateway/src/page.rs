//! The web page: files built into the program, with their types, caching and compression.
//!
//! Each file may have neighbours `FILE.br` and `FILE.gz`, the same compressed. What lies under
//! `/assets/` has a fingerprint in its name and never changes; everything else is asked for anew. The page
//! itself is at `/`. An address without a file and without an extension, which somebody may have mistyped,
//! gets the page too, with a 404.

use std::fmt::Write;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, StatusCode,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
        CONTENT_TYPE, ETAG, HeaderName, HeaderValue, VARY,
    },
};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::{
    reply::{self, Failure, Reply},
    request,
};

/// The files that the page's build leaves.
#[derive(RustEmbed)]
#[folder = "../web-ui/dist"]
#[allow_missing = true]
struct Dist;

const INDEX: &str = "index.html";

/// What the page may do: run its own scripts and wasm, and talk to its own server.
const POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
     img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'none'";

const NOT_BUILT: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Minute-Credit</title>\
     <h1>Minute-Credit</h1><p>The server runs, but it was built without the page. \
     Build the page with <code>cargo run -p page</code>, then build the server again.";

/// The compressions, in order of preference: name, ending.
const ENCODINGS: [(&str, &str); 2] = [("br", "br"), ("gzip", "gz")];

/// Serves the file or page at `path` to `GET` and `HEAD`.
pub fn serve(path: &str, headers: &HeaderMap) -> Result<Reply, Failure> {
    serve_from::<Dist>(path, headers)
}

fn serve_from<Files: RustEmbed>(path: &str, headers: &HeaderMap) -> Result<Reply, Failure> {
    let name = path.trim_start_matches('/');
    let is_sane =
        name.split('/').all(|part| !part.starts_with('.')) && !name.contains(['\\', '\0', '%']);
    if is_sane
        && content_type(name).is_some()
        && let Some(reply) = file::<Files>(name, headers)
    {
        return Ok(reply);
    }
    let is_page = name
        .rsplit('/')
        .next()
        .is_none_or(|last| !last.contains('.'));
    if !is_page {
        return Err(Failure::not_found());
    }
    if name.is_empty() {
        return Ok(file::<Files>(INDEX, headers).unwrap_or_else(not_built));
    }
    Ok(file::<Files>(INDEX, &unconditional(headers)).map_or_else(not_built, not_found))
}

/// What of `headers` chooses the encoding, without what would make the reply a "not modified".
fn unconditional(headers: &HeaderMap) -> HeaderMap {
    let encodings = headers.get(ACCEPT_ENCODING).cloned();
    encodings
        .map(|encodings| (ACCEPT_ENCODING, encodings))
        .into_iter()
        .collect()
}

/// `page` as the reply where there is nothing. Nobody keeps it: tomorrow there may be something.
fn not_found(mut page: Reply) -> Reply {
    *page.status_mut() = StatusCode::NOT_FOUND;
    let headers = page.headers_mut();
    headers.remove(ETAG);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page
}

/// The file called `name` in the best encoding that the client takes.
fn file<Files: RustEmbed>(name: &str, headers: &HeaderMap) -> Option<Reply> {
    let plain = Files::get(name)?;
    let accepted = headers
        .get(ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let encoded = ENCODINGS
        .into_iter()
        .filter(|(encoding, _)| accepts(accepted, encoding))
        .find_map(|(encoding, ending)| Some((encoding, Files::get(&format!("{name}.{ending}"))?)));
    let (encoding, file) = match encoded {
        Some((encoding, file)) => (Some(encoding), file),
        None => (None, plain),
    };

    let tag = tag(&file);
    let is_known = request::knows(headers, &tag);
    let mut reply = if is_known {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        whole(name, file)
    };
    let caching = if name.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            reply.headers_mut().insert(name, value);
        }
    };
    set(ETAG, &tag);
    set(CACHE_CONTROL, caching);
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(VARY, "Accept-Encoding");
    if let Some(encoding) = encoding.filter(|_| !is_known) {
        set(CONTENT_ENCODING, encoding);
    }
    Some(reply)
}

fn whole(name: &str, file: EmbeddedFile) -> Reply {
    let body = match file.data {
        std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        std::borrow::Cow::Owned(bytes) => Bytes::from(bytes),
    };
    let mut reply = reply::empty(StatusCode::OK);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(content_type(name).unwrap_or("application/octet-stream")),
    );
    *reply.body_mut() = Either::Left(Full::new(body));
    reply
}

fn not_built() -> Reply {
    let body = Bytes::from_static(NOT_BUILT.as_bytes());
    let mut reply = reply::with_type(
        StatusCode::SERVICE_UNAVAILABLE,
        "text/html; charset=utf-8",
        body,
    );
    reply
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    reply
}

/// The type of a file by its ending; nothing for what we don't serve.
fn content_type(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "wasm" => "application/wasm",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" => "text/plain; charset=utf-8",
        "woff2" => "font/woff2",
        _ => return None,
    })
}

/// Whether `header`, an `Accept-Encoding`, takes `encoding`.
fn accepts(header: &str, encoding: &str) -> bool {
    header.split(',').any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let is_named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case(encoding));
        // A weight of 0, in any of its spellings, means "not at all".
        let is_refused = parts.any(|part| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.chars().all(|c| c == '0' || c == '.'))
        });
        is_named && !is_refused
    })
}

/// The file's `ETag`: a part of its hash.
fn tag(file: &EmbeddedFile) -> String {
    let mut tag = String::from("\"");
    for byte in file.metadata.sha256_hash().iter().take(12) {
        // Writing to a string can't fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag + "\""
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// A page as the build leaves it, in `tests/site`.
    #[derive(RustEmbed)]
    #[folder = "tests/site"]
    struct Site;

    /// Status, type, encoding, caching and body.
    async fn get(path: &str, encodings: &'static str) -> (u16, String, String, String, String) {
        let headers = [(ACCEPT_ENCODING, HeaderValue::from_static(encodings))]
            .into_iter()
            .collect();
        let reply = serve_from::<Site>(path, &headers).unwrap_or_else(Failure::into_reply);
        let header = |name| {
            let value = reply
                .headers()
                .get(name)
                .map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
            value.unwrap_or_default()
        };
        let (content_type, encoding, caching) = (
            header(CONTENT_TYPE),
            header(CONTENT_ENCODING),
            header(CACHE_CONTROL),
        );
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            content_type,
            encoding,
            caching,
            String::from_utf8_lossy(&body).trim().to_owned(),
        )
    }

    #[tokio::test]
    async fn files_have_types_encodings_and_lifetimes() {
        let check = async |path, encodings, status: u16, expected: (&str, &str, &str, &str)| {
            let (got, content_type, encoding, caching, body) = get(path, encodings).await;
            let got_all = (
                content_type.as_str(),
                encoding.as_str(),
                caching.as_str(),
                body.as_str(),
            );
            assert_eq!((got, got_all), (status, expected), "{path} {encodings}");
        };
        let (html, js, wasm) = (
            "text/html; charset=utf-8",
            "text/javascript; charset=utf-8",
            "application/wasm",
        );
        let for_ever = "public, max-age=31536000, immutable";
        check("/", "", 200, (html, "", "no-cache", "index")).await;
        check(
            "/",
            "gzip, br",
            200,
            (html, "br", "no-cache", "index as br"),
        )
        .await;
        check(
            "/",
            "gzip, br;q=0",
            200,
            (html, "gzip", "no-cache", "index as gz"),
        )
        .await;
        check("/index.html", "", 200, (html, "", "no-cache", "index")).await;
        check("/history", "identity", 404, (html, "", "no-store", "index")).await;
        check(
            "/history",
            "br",
            404,
            (html, "br", "no-store", "index as br"),
        )
        .await;
        check("/a/b/", "", 404, (html, "", "no-store", "index")).await;
        check(
            "/assets/app-1234.js",
            "br",
            200,
            (js, "br", for_ever, "script as br"),
        )
        .await;
        check(
            "/assets/app-1234.js",
            "gzip",
            200,
            (js, "", for_ever, "script"),
        )
        .await;
        check(
            "/assets/app-1234.wasm",
            "",
            200,
            (wasm, "", for_ever, "wasm"),
        )
        .await;
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found() {
        for path in [
            "/missing.js",
            "/assets/app-1234.js.br",
            "/../Cargo.toml",
            "/assets/../../Cargo.toml",
            "/..%2fCargo.toml",
            "/.hidden.txt",
        ] {
            assert_eq!(get(path, "br").await.0, 404, "{path}");
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let serve = |headers: &HeaderMap| serve_from::<Site>("/", headers).unwrap();
        let first = serve(&HeaderMap::new());
        let mut headers = HeaderMap::new();
        headers.insert(hyper::header::IF_NONE_MATCH, first.headers()[ETAG].clone());
        assert_eq!(serve(&headers).status(), StatusCode::NOT_MODIFIED);
        let nowhere = serve_from::<Site>("/history", &headers).unwrap();
        assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(
            serve(&headers).status(),
            StatusCode::OK,
            "another encoding is another file"
        );
    }
}
