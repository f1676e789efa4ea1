//! `/healthz` and `/readyz`: for whoever watches over the process.

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{HeaderValue, VARY},
};

use crate::{
    app::App,
    client::{Client, Way},
    metrics::Form,
    reply::{self, Failure, Reply},
};

/// `GET /healthz`: the process is alive.
pub fn alive() -> Reply {
    reply::with_type(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        Bytes::from_static(b"ok\n"),
    )
}

/// `GET /metrics`: for Prometheus and whatever reads its text, in the form that is asked for, in the networks that may see them. A proxy that is not trusted hides
/// who asks, so through one nobody may.
pub fn metrics(app: &App, client: Option<&Client>, headers: &HeaderMap) -> Result<Reply, Failure> {
    let may_see = client.is_some_and(|client| {
        client.way != Way::UnknownProxy && client.address.is_in(&app.metrics_networks)
    });
    if !may_see {
        return Err(Failure::not_found());
    }
    app.engine.metrics();
    let waiting = i64::try_from(app.passwords.waiting()).unwrap_or(i64::MAX);
    app.metrics.passwords_waiting.set(waiting);
    let form = Form::wanted(headers);
    let text = app.metrics.encode(form).map_err(Failure::internal)?;
    let mut reply = reply::with_type(StatusCode::OK, form.content_type(), text.into());
    let headers = reply.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    Ok(reply)
}

/// `GET /readyz`: requests can be served.
pub async fn ready(app: &App) -> Result<Reply, Failure> {
    if app.draining.has_begun() {
        return Err(Failure::not_ready("The server is about to end."));
    }
    if !app.engine.is_recording() {
        return Err(Failure::not_ready(
            "Nothing gets into the database just now.",
        ));
    }
    if let Err(error) = app.engine.store().ping().await {
        tracing::debug!(%error, "the database did not answer a ping");
        return Err(Failure::not_ready("The database does not answer."));
    }
    Ok(reply::with_type(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        Bytes::from_static(b"ready\n"),
    ))
}
