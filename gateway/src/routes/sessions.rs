//! `/api/sessions/…`: the fixed part, starting, stopping and watching the caller's session.

use engine::keys::RequestKey;
use hyper::{HeaderMap, Request, StatusCode, body::Incoming};
use schema::session::{Active, EndReason, SessionStarted, SessionStopped};

use crate::{
    app::App,
    reply::{self, Failure, Reply},
    request,
    tokens::Bearer,
};

/// `POST /api/sessions/start`
pub async fn start(app: &App, request: Request<Incoming>) -> Result<Reply, Failure> {
    let (bearer, key) = command(app, request).await?;
    let started = app.engine.start_session(bearer.user, key).await?;
    let message = "Session started".to_owned();
    let started = SessionStarted {
        message,
        session_id: started.session,
        started_at: started.started_at,
    };
    Ok(reply::json(StatusCode::OK, &started))
}

/// `POST /api/sessions/stop`
pub async fn stop(app: &App, request: Request<Incoming>) -> Result<Reply, Failure> {
    let (bearer, key) = command(app, request).await?;
    let stopped = app
        .engine
        .stop_session(bearer.user, EndReason::User, key)
        .await?;
    let stopped = SessionStopped {
        message: "Session stopped".to_owned(),
        session_id: stopped.session,
        credits_consumed: stopped.consumed,
        final_credits: stopped.final_credits,
        ended_at: stopped.ended_at,
        reason: stopped.reason,
    };
    Ok(reply::json(StatusCode::OK, &stopped))
}

/// `GET /api/sessions/active`
pub async fn active(app: &App, headers: &HeaderMap) -> Result<Reply, Failure> {
    let bearer = app.access.of_request(headers).await?;
    let balance = app.engine.balance(bearer.user).await?;
    Ok(reply::json(
        StatusCode::OK,
        &Active {
            active: balance.session.is_some(),
            balance,
        },
    ))
}

/// `GET /api/sessions/credits`
pub async fn credits(app: &App, headers: &HeaderMap) -> Result<Reply, Failure> {
    let bearer = app.access.of_request(headers).await?;
    Ok(reply::json(
        StatusCode::OK,
        &app.engine.balance(bearer.user).await?,
    ))
}

/// Who commands, under which key.
async fn command(
    app: &App,
    request: Request<Incoming>,
) -> Result<(Bearer, Option<RequestKey>), Failure> {
    let bearer = app.access.of_request(request.headers()).await?;
    Ok((bearer, request::command(request, &app.http).await?))
}
