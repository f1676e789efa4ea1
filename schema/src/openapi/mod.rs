//! The description of the API (`OpenAPI` 3.1), made from the types of this crate: what stands in
//! `schema/openapi.json` and what a server serves at `/api/openapi.json`.
//!
//! `calls` lists every call as data, `failures` says what each error code means, `numbers` how the
//! newtypes look. Built with the feature `openapi` only.

mod call;
mod calls;
mod failures;
mod numbers;
mod plain;
mod session;

use utoipa::openapi::{
    ComponentsBuilder, Header, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Paths,
    Required, Tag,
    header::HeaderBuilder,
    path::ParameterIn,
    schema::{ObjectBuilder, Type},
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    tag::TagBuilder,
};

use crate::{ErrorBody, ErrorCode};
use call::parameter;
pub use session::SessionIfAny;

/// The document as the text that is committed and served.
pub fn text() -> Result<String, serde_json::Error> {
    Ok(document().to_pretty_json()? + "\n")
}

/// The document.
pub fn document() -> OpenApi {
    let mut components = components();
    let mut paths = Paths::new();
    for call in calls::all() {
        components.schemas.extend(call.schemas.iter().cloned());
        for failure in call.failures() {
            components
                .responses
                .insert(failure.name, failure.response.into());
        }
        let (path, method) = (call.path, call.method.clone());
        paths.add_path_operation(path, vec![method], call.operation());
    }
    plain::make_plain(&mut components);
    let info = InfoBuilder::new()
        .title("Minute-Credit")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache License 2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ));
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(tags()))
        .paths(paths)
        .components(Some(components))
        .build()
}

const DESCRIPTION: &str = "\
A real-time billing engine. A user has a wallet of whole credits and starts a session; while the \
session lives it costs credits by time, and it stops by itself when they run out.

**Amounts** are whole credits, **times** milliseconds since 1970, all within ±(2^53 − 1).

**Failures** are `{\"error\": \"<a sentence>\", \"code\": \"<snake_case>\"}`; with 422, `field` names \
what is wrong. Besides those listed with each call, there may be anywhere: 404 `not_found` at an \
unknown address, 405 `method_not_allowed` with `Allow`, 500 `internal`, 400 `invalid_request` for a \
request without one `Host`; and, without a body, what is answered to requests that are not HTTP (400, \
408, 414, 431). Which codes a call may give with a status stands there as `x-error-codes`. A client whose \
requests are refused again and again gets such answers a little later each.

**Sending a request again.** A call that is answered 503 `outcome_unknown`, or not at all, may have \
been done or not: send it again under the same `Idempotency-Key`.

**More fields** may come with any reply or message, and more types of messages; ignore what you \
don't know. `HEAD` is answered wherever `GET` is.";

fn tags() -> Vec<Tag> {
    let tag = |name: &str, description: &str| {
        TagBuilder::new()
            .name(name)
            .description(Some(description))
            .build()
    };
    vec![
        tag("accounts", "Signing up, logging in and out."),
        tag("sessions", "Starting, stopping and watching a session."),
        tag("history", "What was: sessions and the wallet's movements."),
        tag("stream", "The balance, live."),
        tag("operation", "For who watches over the server."),
    ]
}

fn components() -> utoipa::openapi::Components {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("PASETO v4.local")
        .description(Some("The `token` of a signup or a log-in."))
        .build();
    let in_query = |name: &str, what: &str| {
        SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::with_description(name, what)))
    };
    ComponentsBuilder::new()
        .schema_from::<ErrorBody>()
        .schema_from::<ErrorCode>()
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme(
            "ticket_in_query",
            in_query("ticket", "A ticket of `POST /api/ws/ticket`."),
        )
        .security_scheme(
            "token_in_query",
            in_query("token", "The bearer token, for websockets of old clients."),
        )
        .parameter("Idempotency-Key", idempotency_key())
        .header(
            "X-Request-Id",
            header(
                Type::String,
                "Stands in every line that the log has about the request.",
            ),
        )
        .header(
            "ETag",
            header(Type::String, "Names what is answered; it changes with it."),
        )
        .header(
            "Sec-WebSocket-Version",
            header(Type::String, "`13`: the version that is spoken."),
        )
        .header(
            "Retry-After",
            header(Type::Integer, "When to come back, in seconds."),
        )
        .header(
            "WWW-Authenticate",
            header(Type::String, "`Bearer`: how to authenticate."),
        )
        .build()
}

fn header(schema_type: Type, description: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(schema_type).build()))
        .description(Some(description))
        .build()
}

fn idempotency_key() -> utoipa::openapi::path::Parameter {
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(255))
        .pattern(Some("^[!-~]+$"))
        .examples(["8f14e45f-ceea-467e"]);
    let description = "Names the request, so that it can be sent again: under the same key it is \
        done once, and its first success comes back every time. A key belongs to its user, to one \
        request, and lives for 24 hours.";
    parameter(ParameterIn::Header, "Idempotency-Key", description, key)
        .required(Required::False)
        .build()
}
