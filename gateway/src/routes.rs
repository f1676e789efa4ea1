//! Which address does what. A route decodes, calls the engine once and encodes; each file of routes
//! is named for its part of the address.

pub mod accounts;
pub mod document;
pub mod health;
pub mod history;
pub mod sessions;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    header::{ACCEPT, ALLOW, CONNECTION, HeaderValue, ORIGIN, TRANSFER_ENCODING},
};
use matchit::{Params, Router};
use schema::ErrorCode;
use tokio::sync::SemaphorePermit;

use crate::{
    app::App,
    client::{Client, Transport},
    cors, event_stream,
    limits::Limit,
    origins::{Caller, caller},
    page,
    reply::{self, Failure, Reply},
    request, socket,
};

/// What an address does for a method.
#[derive(Clone, Copy, Debug)]
enum Route {
    SignUp,
    LogIn,
    LogOut,
    ChangePassword,
    Erase,
    Me,
    StartSession,
    StopSession,
    ActiveSession,
    Credits,
    Sessions,
    Session,
    Ledger,
    Document,
    Alive,
    Ready,
    Metrics,
    Stream,
    Ticket,
    Socket,
}

impl Route {
    /// The name in metrics and traces.
    const fn name(self) -> &'static str {
        match self {
            Self::SignUp => "sign_up",
            Self::LogIn => "log_in",
            Self::LogOut => "log_out",
            Self::ChangePassword => "change_password",
            Self::Erase => "erase",
            Self::Me => "me",
            Self::StartSession => "start_session",
            Self::StopSession => "stop_session",
            Self::ActiveSession => "active_session",
            Self::Credits => "credits",
            Self::Sessions => "sessions",
            Self::Session => "session",
            Self::Ledger => "ledger",
            Self::Document => "document",
            Self::Ticket => "ticket",
            Self::Alive => "healthz",
            Self::Ready => "readyz",
            Self::Metrics => "metrics",
            Self::Stream => "stream",
            Self::Socket => "websocket",
        }
    }

    /// Whether it is answered however busy the server is.
    const fn is_vital(self) -> bool {
        matches!(self, Self::Alive | Self::Ready | Self::Metrics)
    }
}

/// The name of the route that a reply comes from, among the reply's extensions.
#[derive(Clone, Copy, Debug)]
pub struct RouteName(pub &'static str);

impl RouteName {
    /// A request that the page's files answer.
    const PAGE: Self = Self("page");
    /// A request that no route answers.
    const NONE: Self = Self("none");
}

/// The methods of one address.
type Methods = &'static [(Method, Route)];

/// Every address but the page's. What isn't here belongs to the page, except below `/api`.
const TABLE: [(&str, Methods); 20] = [
    ("/api/auth/signup", &[(Method::POST, Route::SignUp)]),
    ("/api/auth/login", &[(Method::POST, Route::LogIn)]),
    ("/api/auth/logout", &[(Method::POST, Route::LogOut)]),
    (
        "/api/auth/password",
        &[(Method::POST, Route::ChangePassword)],
    ),
    ("/api/auth/erase", &[(Method::POST, Route::Erase)]),
    ("/api/auth/me", &[(Method::GET, Route::Me)]),
    (
        "/api/sessions/start",
        &[(Method::POST, Route::StartSession)],
    ),
    ("/api/sessions/stop", &[(Method::POST, Route::StopSession)]),
    (
        "/api/sessions/active",
        &[(Method::GET, Route::ActiveSession)],
    ),
    ("/api/sessions/credits", &[(Method::GET, Route::Credits)]),
    ("/api/sessions", &[(Method::GET, Route::Sessions)]),
    ("/api/sessions/{id}", &[(Method::GET, Route::Session)]),
    ("/api/ledger", &[(Method::GET, Route::Ledger)]),
    ("/api/openapi.json", &[(Method::GET, Route::Document)]),
    ("/healthz", &[(Method::GET, Route::Alive)]),
    ("/readyz", &[(Method::GET, Route::Ready)]),
    ("/metrics", &[(Method::GET, Route::Metrics)]),
    ("/api/stream", &[(Method::GET, Route::Stream)]),
    ("/api/ws/ticket", &[(Method::POST, Route::Ticket)]),
    ("/ws", &[(Method::GET, Route::Socket)]),
];

/// Finds routes and runs them.
pub struct Routes {
    router: Router<Methods>,
    app: Arc<App>,
}

impl Routes {
    /// The routes of `app`.
    pub fn new(app: Arc<App>) -> Result<Self, matchit::InsertError> {
        let mut router = Router::new();
        for (path, methods) in TABLE {
            router.insert(path, methods)?;
        }
        Ok(Self { router, app })
    }

    /// What the routes work with.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Answers `request`, whatever happens.
    pub async fn answer(&self, request: Request<Incoming>) -> Reply {
        let origin = request.headers().get(ORIGIN).cloned();
        let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
        let client = request.extensions().get::<Client>();
        let caller = caller(request.headers(), client, &self.app.http);
        let transport = client.map_or(Transport::Plain, |client| client.transport);
        let path = request.uri().path().to_owned();
        let is_api = path.starts_with("/api/");
        let found = self.find(&path, &request);
        let name = found.name();
        let must_be_told_to_wait = event_stream::must_be_told_to_wait(&path, request.headers());
        let answered = AssertUnwindSafe(self.dispatch(request, &path, found, caller))
            .catch_unwind()
            .await;
        let mut reply = match answered {
            Ok(Ok(reply)) => reply,
            Ok(Err(failure)) => {
                if let Some(limit) = Limit::of(failure.code()) {
                    self.app.metrics.limits.hit(limit);
                }
                match failure {
                    failure if must_be_told_to_wait => event_stream::come_later(failure),
                    failure => Err(failure),
                }
                .unwrap_or_else(Failure::into_reply)
            }
            Err(_) => Failure::internal("a route panicked").into_reply(),
        };
        reply.extensions_mut().insert(name);
        reply::harden(&mut reply, transport, self.app.http.hsts);
        // Whether a chunked request came with a length too, hyper doesn't tell; after one that did, the
        // connection must not go on (RFC 9112, section 6.3): a proxy may see another request in the rest.
        if is_chunked && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            reply.headers_mut().insert(CONNECTION, close);
        }
        if is_api {
            let allowed = origin.filter(|_| caller == Caller::Allowed);
            cors::share_with(&mut reply, allowed);
        }
        reply
    }

    /// What is at `path` for `request`.
    fn find<'a>(&'a self, path: &'a str, request: &Request<Incoming>) -> Found<'a> {
        if path == "/" && socket::is_upgrade(request) {
            return Found::Route(Route::Socket, Params::default());
        }
        let Ok(found) = self.router.at(path) else {
            return Found::Nothing;
        };
        let wanted = match *request.method() {
            Method::HEAD => &Method::GET,
            ref method => method,
        };
        match found.value.iter().find(|(method, _)| method == wanted) {
            Some((_, route)) => Found::Route(*route, found.params),
            None => Found::OtherMethods(found.value),
        }
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        path: &str,
        found: Found<'_>,
        caller: Caller,
    ) -> Result<Reply, Failure> {
        request::check_framing(&request)?;
        let is_vital = matches!(&found, Found::Route(route, _) if route.is_vital());
        let _in_flight = if is_vital {
            None
        } else {
            Some(InFlight::enter(&self.app)?)
        };
        if caller == Caller::Foreign
            && path.starts_with("/api/")
            && !matches!(found, Found::Nothing)
        {
            return Err(Failure::origin_not_allowed());
        }
        match found {
            Found::Route(route, params) => run(route, &self.app, request, &params, caller).await,
            Found::OtherMethods(methods) if request.method() == Method::OPTIONS => {
                Ok(cors::options(request.headers(), allow(methods), caller))
            }
            Found::OtherMethods(methods) => Err(Failure::method_not_allowed(allow(methods))),
            Found::Nothing => outside_the_table(path, &request),
        }
    }
}

/// What is at an address for a method.
enum Found<'a> {
    /// A route, with the parameters in its address.
    Route(Route, Params<'a, 'a>),
    /// Something, but for other methods.
    OtherMethods(Methods),
    /// Nothing of the table.
    Nothing,
}

impl Found<'_> {
    fn name(&self) -> RouteName {
        match self {
            Self::Route(route, _) => RouteName(route.name()),
            Self::OtherMethods(_) => RouteName::NONE,
            Self::Nothing => RouteName::PAGE,
        }
    }
}

/// A request that is being answered.
struct InFlight<'a> {
    app: &'a App,
    _permit: SemaphorePermit<'a>,
}

impl<'a> InFlight<'a> {
    fn enter(app: &'a App) -> Result<Self, Failure> {
        let permit = app.requests.try_acquire().map_err(|_| {
            app.metrics.limits.hit(Limit::RequestsInFlight);
            Failure::unavailable()
        })?;
        app.metrics.http.in_flight.inc();
        Ok(Self {
            app,
            _permit: permit,
        })
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.app.metrics.http.in_flight.dec();
    }
}

async fn run(
    route: Route,
    app: &Arc<App>,
    mut request: Request<Incoming>,
    params: &Params<'_, '_>,
    caller: Caller,
) -> Result<Reply, Failure> {
    match route {
        Route::SignUp => accounts::sign_up(app, request).await,
        Route::LogIn => accounts::log_in(app, request).await,
        Route::LogOut => accounts::log_out(app, request).await,
        Route::ChangePassword => accounts::change_password(app, request).await,
        Route::Erase => accounts::erase(app, request).await,
        Route::Me => accounts::me(app, request.headers()).await,
        Route::StartSession => sessions::start(app, request).await,
        Route::StopSession => sessions::stop(app, request).await,
        Route::ActiveSession => sessions::active(app, request.headers()).await,
        Route::Credits => sessions::credits(app, request.headers()).await,
        Route::Sessions => history::sessions(app, request.headers(), request.uri().query()).await,
        Route::Session => {
            history::session(app, request.headers(), params.get("id").unwrap_or_default()).await
        }
        Route::Ledger => history::ledger(app, request.headers(), request.uri().query()).await,
        Route::Document => Ok(document::openapi(request.headers())),
        Route::Alive => Ok(health::alive()),
        Route::Ready => health::ready(app).await,
        Route::Metrics => health::metrics(app, request.extensions().get(), request.headers()),
        Route::Stream => event_stream::open(app, &request).await,
        Route::Ticket => accounts::ticket(app, request).await,
        Route::Socket => socket::open(app, &mut request, caller).await,
    }
}

/// The first parts of addresses that are none of the page's: those of the table, and what else is asked
/// for by those who watch over servers. A probe with a slash too many must not get the page's 200.
const RESERVED: [&str; 14] = [
    "api", "ws", "healthz", "readyz", "livez", "metrics", "health", "ready", "live", "status",
    "ping", "alive", "startupz", "debug",
];

/// What isn't in the table: the page with its files, or nothing. The page has one address; a person who
/// asks for another one gets it too, with the status that says so.
fn outside_the_table(path: &str, request: &Request<Incoming>) -> Result<Reply, Failure> {
    const PAGE_METHODS: &str = "GET, HEAD, OPTIONS";
    let is_page = path == "/";
    let is_file = !path.contains("//")
        && path
            .rsplit('/')
            .next()
            .is_some_and(|name| name.contains('.'));
    let headers = request.headers();
    match *request.method() {
        Method::GET | Method::HEAD if is_page || is_file => page::serve(path, headers),
        Method::GET | Method::HEAD if !is_reserved(path) && wants_html(headers) => {
            page::serve(path, headers)
        }
        Method::OPTIONS if is_page || path == "*" => {
            let mut reply = reply::empty(StatusCode::NO_CONTENT);
            reply
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(PAGE_METHODS));
            Ok(reply)
        }
        _ if is_page => Err(Failure::method_not_allowed(HeaderValue::from_static(
            PAGE_METHODS,
        ))),
        _ => Err(Failure::not_found()),
    }
}

/// Whether `path` is one of the table's, or nearly one: with other slashes, capitals or escapes.
fn is_reserved(path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let Some(first) = parts.next() else {
        return false;
    };
    // An escape or a dot that needs not be there is nobody's typing.
    first.contains('%')
        || first.starts_with('.')
        || RESERVED.iter().any(|name| first.eq_ignore_ascii_case(name))
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

/// The value of an `Allow` header.
fn allow(methods: Methods) -> HeaderValue {
    let mut names = Vec::new();
    for (method, _) in methods {
        names.push(method.as_str());
        if method == Method::GET {
            names.push(Method::HEAD.as_str());
        }
    }
    names.push(Method::OPTIONS.as_str());
    HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static("OPTIONS"))
}

/// A query or path parameter that can't be read.
pub fn wrong_parameter(name: &'static str, what: &str) -> Failure {
    Failure::field(
        ErrorCode::InvalidField,
        name,
        format!("The parameter {name} {what}."),
    )
}
