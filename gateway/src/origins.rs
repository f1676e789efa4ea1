//! Which browser pages may reach us (CORS and the websocket's Origin check).
//!
//! A page may come if it is ours, or if the settings list its origin. It is ours if the browser itself says
//! so (`Sec-Fetch-Site`, which no page can set), if its origin has the host that the request names, or that
//! a trusted proxy says it named, or if it is that of `http.public_url`. Requests without an `Origin` header
//! come from no page.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use hyper::{
    HeaderMap,
    header::{HOST, HeaderName, ORIGIN},
};

use crate::{
    client::{Client, Way},
    settings::HttpSettings,
};

/// Where browsers say how a page and what it asks for belong together.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The host that a client asked a proxy for.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The origin of a page: scheme, host and port. In the settings it may be every host below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// In lower case.
    scheme: String,
    host: Host,
    /// None for schemes that have no ports of their own, unless one is named.
    port: Option<u16>,
}

/// A host in lower case, or every host below it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Exactly(String),
    Below(String),
}

/// What is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {why}")]
pub struct InvalidOrigin {
    text: String,
    why: &'static str,
}

impl Origin {
    /// The origin that an address, with or without a path, belongs to.
    pub fn of_url(url: &str) -> Result<Self, InvalidOrigin> {
        let end = url
            .find("://")
            .and_then(|scheme| Some(scheme + 3 + url[scheme + 3..].find(['/', '?', '#'])?));
        let origin = parse(&url[..end.unwrap_or(url.len())]).filter(Origin::is_of_one_host);
        origin.ok_or_else(|| InvalidOrigin {
            text: url.to_owned(),
            why: "has no scheme and host",
        })
    }

    fn is_of_one_host(&self) -> bool {
        matches!(self.host, Host::Exactly(_))
    }

    /// Whether `page`, the origin of a page, is this one or one of these.
    fn covers(&self, page: &Self) -> bool {
        let is_host = match (&self.host, &page.host) {
            (Host::Exactly(own), Host::Exactly(host)) => own == host,
            (Host::Below(above), Host::Exactly(host)) => host
                .strip_suffix(above)
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
            (_, Host::Below(_)) => false,
        };
        is_host && self.scheme == page.scheme && self.port == page.port
    }
}

/// An origin as the settings have it.
impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        // Who copies an address copies its slash.
        let bare = text.strip_suffix('/').unwrap_or(text);
        parse(bare).ok_or_else(|| InvalidOrigin {
            text: text.to_owned(),
            why: why_not(text),
        })
    }
}

/// Why `text` is no origin, as far as one can guess what was meant.
fn why_not(text: &str) -> &'static str {
    if text == "null" {
        "is the origin of every sandboxed page and every file, so anybody's: serve your page from a host"
    } else if text.contains('*') {
        "would be anybody: a * may only stand for what comes before a domain, as in https://*.example.com"
    } else if !text.is_ascii() {
        "must be as browsers write it, with xn--… for a name that is not ASCII"
    } else {
        "is no origin: that is scheme, host and port as in http://localhost:3000, without a path"
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (below, host) = match &self.host {
            Host::Exactly(host) => ("", host),
            Host::Below(host) => ("*.", host),
        };
        write!(f, "{}://{below}{host}", self.scheme)?;
        match self.port {
            Some(port) if default_port(&self.scheme) != Some(port) => write!(f, ":{port}"),
            _ => Ok(()),
        }
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

/// Tells where a request with `headers` comes from, that `client` sent.
pub fn caller(headers: &HeaderMap, client: Option<&Client>, http: &HttpSettings) -> Caller {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Caller::Local;
    };
    let page = origin.to_str().ok().and_then(parse);
    let Some(page) = page.filter(|page| page.is_of_one_host() && origins.next().is_none()) else {
        return Caller::Foreign;
    };
    if http
        .allowed_origins
        .iter()
        .any(|origin| origin.covers(&page))
    {
        return Caller::Allowed;
    }
    let through_ours = client.is_some_and(|client| client.way == Way::TrustedProxy);
    let is_own = says_same_origin(headers)
        || http.public_origin.as_ref() == Some(&page)
        || is_host_of(&page, headers, &HOST)
        || (through_ours && is_host_of(&page, headers, &FORWARDED_HOST));
    if is_own {
        Caller::Local
    } else {
        Caller::Foreign
    }
}

fn says_same_origin(headers: &HeaderMap) -> bool {
    headers
        .get(FETCH_SITE)
        .is_some_and(|site| site == "same-origin")
}

/// Whether the header `name` has the host and port of `page`. The last proxy is the one we trust.
fn is_host_of(page: &Origin, headers: &HeaderMap, name: &HeaderName) -> bool {
    let hosts = headers.get_all(name).iter().next_back();
    let host = hosts.and_then(|hosts| hosts.to_str().ok()?.rsplit(',').next());
    host.is_some_and(|host| {
        let own = parse(&format!("{}://{}", page.scheme, host.trim()));
        own.is_some_and(|own| own == *page)
    })
}

const fn default_port(scheme: &str) -> Option<u16> {
    match scheme.as_bytes() {
        b"http" => Some(80),
        b"https" => Some(443),
        _ => None,
    }
}

/// An origin as browsers write it, or with `*.` before its host.
fn parse(text: &str) -> Option<Origin> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let scheme = scheme.to_ascii_lowercase();
    // A page from a file has the origin "null".
    if !is_scheme || scheme == "file" {
        return None;
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(read_port(port)?)),
        _ => (rest, default_port(&scheme)),
    };
    Some(Origin {
        host: read_host(host)?,
        port,
        scheme,
    })
}

fn read_port(digits: &str) -> Option<u16> {
    let is_plain = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}

fn read_host(text: &str) -> Option<Host> {
    if let Some(address) = text.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(Host::Exactly(format!("[{address}]")));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let is_name = |name: &str| name.split('.').all(is_label);
    match text.strip_prefix("*.") {
        // A domain of one label is everybody's.
        Some(name) if name.contains('.') && is_name(name) => {
            Some(Host::Below(name.to_ascii_lowercase()))
        }
        None if is_name(text) => Some(Host::Exactly(text.to_ascii_lowercase())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn origins_are_read_as_browsers_and_people_write_them() {
        let check = |text: &str, expected: Option<&str>| {
            let origin = text.parse::<Origin>().ok();
            let origin = origin.map(|origin| origin.to_string());
            assert_eq!(origin.as_deref(), expected, "{text}");
        };
        for same in [
            "http://localhost:3000",
            "https://example.com:8443",
            "http://[::1]:8000",
            "http://[::1]",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost:1420",
            "chrome-extension://abcdefghijklmnop",
            "https://*.example.com",
            "http://*.preview.example.com:8080",
            "https://xn--mller-kva.example",
        ] {
            check(same, Some(same));
        }
        check("https://Example.COM", Some("https://example.com"));
        check("HTTPS://example.com", Some("https://example.com"));
        check("https://example.com:443", Some("https://example.com"));
        check("http://example.com:80", Some("http://example.com"));
        check("https://example.com:80", Some("https://example.com:80"));
        check("http://localhost:3000/", Some("http://localhost:3000"));
        check("http://[0:0:0:0:0:0:0:1]:8000", Some("http://[::1]:8000"));
        for none in [
            "http://localhost:3000//",
            "http://localhost:3000/path",
            "http://localhost?x",
            "http://user@localhost",
            "http://localhost:x",
            "http://localhost:",
            "http://localhost:+1",
            "http://localhost:65536",
            "http://[::1",
            "http://a..b",
            "localhost:3000",
            "//localhost",
            "://localhost",
            "http://",
            "file:///x",
            "file://x",
            "null",
            "*",
            "http://*",
            "https://*.com",
            "https://a.*.example.com",
            "https://*example.com",
            "*://example.com",
            "http://localhost:*",
            "https://müller.example",
            " http://localhost",
            "",
        ] {
            check(none, None);
        }
    }

    #[test]
    fn why_an_origin_is_refused_is_said() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("null", "sandboxed");
        check("*", "as in https://*.example.com");
        check("https://müller.example", "xn--");
        check("localhost:3000", "as in http://localhost:3000");
    }

    #[test]
    fn an_address_has_an_origin() {
        let check = |url: &str, expected: Option<&str>| {
            let origin = Origin::of_url(url).ok().map(|origin| origin.to_string());
            assert_eq!(origin.as_deref(), expected, "{url}");
        };
        check("https://credit.example", Some("https://credit.example"));
        check(
            "https://credit.example/app/?x#y",
            Some("https://credit.example"),
        );
        check(
            "https://credit.example:8443/",
            Some("https://credit.example:8443"),
        );
        check("https://*.credit.example", None);
        check("credit.example", None);
    }

    /// Who a page with `origin` is to a server with these settings.
    fn who(origin: &str, more: &[(&'static str, &'static str)], way: Way) -> Caller {
        let variable =
            |name: &str, value: &str| (format!("MINUTE_CREDIT__HTTP__{name}"), value.to_owned());
        let environment = [
            variable(
                "ALLOWED_ORIGINS",
                r#"["http://localhost:3000", "https://*.example.org", "capacitor://localhost"]"#,
            ),
            variable("PUBLIC_URL", "https://public.example/"),
        ];
        let settings = Settings::from_sources(None, &environment.into()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        for (name, value) in more {
            headers.append(*name, value.parse().unwrap());
        }
        let mut client = Client::of([192, 0, 2, 1].into(), &HeaderMap::new(), &[]);
        client.way = way;
        caller(&headers, Some(&client), &settings.http)
    }

    #[test]
    fn callers_are_told_by_origin_and_host() {
        let check = |origin: &str, host: &'static str, expected: Caller| {
            let told = who(origin, &[("host", host)], Way::Direct);
            assert_eq!(told, expected, "{origin} {host}");
        };
        for (origin, host) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
            ("https://credit.example", "credit.example"),
            ("https://credit.example", "Credit.Example:443"),
            ("http://[::1]:8000", "[::1]:8000"),
            ("https://public.example", "127.0.0.1:8000"),
        ] {
            check(origin, host, Caller::Local);
        }
        for origin in [
            "http://localhost:3000",
            "https://a.example.org",
            "https://a.b.example.org",
            "capacitor://localhost",
        ] {
            check(origin, "127.0.0.1:8000", Caller::Allowed);
        }
        for origin in [
            "https://localhost:3000",
            "http://localhost:3001",
            "http://localhost:3000.evil.example",
            "http://localhost:3000/",
            "http://evil.example",
            "https://example.org",
            "https://.example.org",
            "https://evilexample.org",
            "https://*.example.org",
            "http://a.example.org",
            "https://a.example.org:8443",
            "https://a.example.org.evil.example",
            "ionic://localhost",
            "http://127.0.0.1",
            "http://public.example",
            "null",
            "",
        ] {
            check(origin, "127.0.0.1:8000", Caller::Foreign);
        }
        let twice = [("origin", "http://localhost:3000"), ("host", "x")];
        assert_eq!(
            who("http://localhost:3000", &twice, Way::Direct),
            Caller::Foreign
        );
    }

    #[test]
    fn our_own_page_behind_a_proxy_that_changes_the_host_is_our_own() {
        let rewritten = ("host", "127.0.0.1:8000");
        let check = |more: (&'static str, &'static str), way, expected| {
            let told = who("https://credit.example", &[rewritten, more], way);
            assert_eq!(told, expected, "{more:?} {way:?}");
        };
        let told_by_proxy = ("x-forwarded-host", "evil.example, credit.example");
        check(told_by_proxy, Way::TrustedProxy, Caller::Local);
        check(told_by_proxy, Way::Direct, Caller::Foreign);
        check(told_by_proxy, Way::UnknownProxy, Caller::Foreign);
        let forged = ("x-forwarded-host", "credit.example, other.example");
        check(forged, Way::TrustedProxy, Caller::Foreign);
        check(
            ("sec-fetch-site", "same-origin"),
            Way::Direct,
            Caller::Local,
        );
        check(
            ("sec-fetch-site", "same-site"),
            Way::Direct,
            Caller::Foreign,
        );
        check(
            ("sec-fetch-site", "cross-site"),
            Way::TrustedProxy,
            Caller::Foreign,
        );
    }
}
