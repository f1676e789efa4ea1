//! `/healthz` and `/readyz`: for whoever watches over the process.

use bytes::Bytes;
use hyper::StatusCode;

use crate::{
    app::App,
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
