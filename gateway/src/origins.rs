//! Which browser pages may reach us (CORS and the websocket's Origin check).
//!
//! A page may come if it is ours, which is to say that its origin has the host that the request
//! names, or if the settings list its origin. Requests without an `Origin` header come from no page.

use std::{fmt, str::FromStr};

use hyper::{
    HeaderMap, Uri,
    header::{HOST, ORIGIN},
};

/// The origin of a page: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    /// In lower case.
    host: String,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an origin is scheme, host and port as in http://localhost:3000, without a path; this is none: {0:?}"
)]
pub struct InvalidOrigin(String);

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        parse(text).ok_or_else(|| InvalidOrigin(text.to_owned()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.host)?;
        if self.port != self.scheme.default_port() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// No browser page, or one that needs no permission.
    Local,
    /// A page of another origin that is allowed.
    Allowed,
    /// A page of another origin that is not.
    Foreign,
}

/// Tells where a request with `headers` comes from.
pub fn caller(headers: &HeaderMap, allowed: &[Origin]) -> Caller {
    let Some(origin) = headers.get(ORIGIN) else {
        return Caller::Local;
    };
    let Some(origin) = origin.to_str().ok().and_then(parse) else {
        return Caller::Foreign;
    };
    if allowed.contains(&origin) {
        return Caller::Allowed;
    }
    let is_own = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .is_some_and(|host| {
            let own = parse(&format!("{}://{host}", origin.scheme.name()));
            own.is_some_and(|own| own == origin)
        });
    if is_own {
        Caller::Local
    } else {
        Caller::Foreign
    }
}

fn parse(text: &str) -> Option<Origin> {
    let uri: Uri = text.parse().ok()?;
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let authority = uri.authority()?.as_str();
    // `Uri` gives a path of its own to an address without one: look for what was really written.
    let has_more = text.len() != scheme.name().len() + "://".len() + authority.len();
    if has_more || authority.contains('@') {
        return None;
    }
    let port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse().ok()?,
        _ => scheme.default_port(),
    };
    Some(Origin {
        scheme,
        host: uri.host()?.to_ascii_lowercase(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                text.parse::<Origin>()
                    .ok()
                    .map(|origin| origin.to_string())
                    .as_deref(),
                expected,
                "{text}"
            );
        };
        check("http://localhost:3000", Some("http://localhost:3000"));
        check("https://Example.COM", Some("https://example.com"));
        check("https://example.com:443", Some("https://example.com"));
        check("http://[::1]:8000", Some("http://[::1]:8000"));
        check("http://[::1]", Some("http://[::1]"));
        check("http://localhost:3000/", None);
        check("http://localhost:3000/path", None);
        check("http://user@localhost", None);
        check("http://localhost:x", None);
        check("http://localhost:", None);
        check("localhost:3000", None);
        check("file:///x", None);
        check("null", None);
        check("*", None);
        check("", None);
    }

    #[test]
    fn callers_are_told_by_origin_and_host() {
        let allowed = ["http://localhost:3000".parse().unwrap()];
        let check = |origin: Option<&'static str>, host: &'static str, expected: Caller| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(caller(&headers, &allowed), expected, "{origin:?} {host}");
        };
        check(None, "127.0.0.1:8000", Caller::Local);
        check(
            Some("http://127.0.0.1:8000"),
            "127.0.0.1:8000",
            Caller::Local,
        );
        check(
            Some("https://credit.example"),
            "credit.example",
            Caller::Local,
        );
        check(
            Some("https://credit.example"),
            "Credit.Example:443",
            Caller::Local,
        );
        check(
            Some("http://localhost:3000"),
            "127.0.0.1:8000",
            Caller::Allowed,
        );
        check(
            Some("https://localhost:3000"),
            "127.0.0.1:8000",
            Caller::Foreign,
        );
        check(
            Some("http://localhost:3001"),
            "127.0.0.1:8000",
            Caller::Foreign,
        );
        check(
            Some("http://localhost:3000.evil.example"),
            "127.0.0.1:8000",
            Caller::Foreign,
        );
        check(
            Some("http://evil.example"),
            "127.0.0.1:8000",
            Caller::Foreign,
        );
        check(Some("http://127.0.0.1"), "127.0.0.1:8000", Caller::Foreign);
        check(Some("null"), "127.0.0.1:8000", Caller::Foreign);
    }
}
