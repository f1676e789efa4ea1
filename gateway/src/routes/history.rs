//! `/api/sessions`, `/api/sessions/{id}` and `/api/ledger`: what was.

use engine::store::SessionCursor;
use hyper::{HeaderMap, StatusCode};
use schema::{
    EntryId, SessionId, UnixMillis,
    ledger::LedgerPage,
    session::{ActiveSession, SessionPage, SessionRecord},
};

use super::wrong_parameter;
use crate::{
    app::App,
    reply::{self, Failure, Reply},
    request::query,
};

/// How many items a page has unless the caller asks for another number.
const LIMIT_DEFAULT: u32 = 20;
/// How many items a page may have.
const LIMIT_MAX: u32 = 100;

/// `GET /api/sessions?limit=&cursor=`
pub async fn sessions(
    app: &App,
    headers: &HeaderMap,
    parameters: Option<&str>,
) -> Result<Reply, Failure> {
    let bearer = app.access.of_request(headers).await?;
    let limit = limit(parameters)?;
    let before = cursor(parameters, parse_session_cursor)?;
    // One more than asked for tells whether there is a next page.
    let mut sessions = app
        .engine
        .store()
        .sessions(bearer.user, before, limit + 1)
        .await?;
    let has_more = sessions.len() > limit as usize;
    sessions.truncate(limit as usize);
    let next_cursor = sessions.last().filter(|_| has_more).map(session_cursor);
    if sessions.iter().any(|session| session.ended_at.is_none()) {
        let live = app.engine.balance(bearer.user).await?.session;
        for session in &mut sessions {
            bring_up_to_date(session, live);
        }
    }
    Ok(reply::json(
        StatusCode::OK,
        &SessionPage {
            sessions,
            next_cursor,
        },
    ))
}

/// `GET /api/sessions/{id}`
pub async fn session(app: &App, headers: &HeaderMap, id: &str) -> Result<Reply, Failure> {
    let bearer = app.access.of_request(headers).await?;
    let id = id
        .parse()
        .ok()
        .and_then(|id| SessionId::new(id).ok())
        .ok_or_else(Failure::not_found)?;
    let session = app.engine.store().session(bearer.user, id).await?;
    let mut session = session.ok_or_else(Failure::not_found)?;
    if session.ended_at.is_none() {
        bring_up_to_date(&mut session, app.engine.balance(bearer.user).await?.session);
    }
    Ok(reply::json(StatusCode::OK, &session))
}

/// `GET /api/ledger?limit=&cursor=`
pub async fn ledger(
    app: &App,
    headers: &HeaderMap,
    parameters: Option<&str>,
) -> Result<Reply, Failure> {
    let bearer = app.access.of_request(headers).await?;
    let limit = limit(parameters)?;
    let before = cursor(parameters, |text| EntryId::new(text.parse().ok()?).ok())?;
    let mut entries = app
        .engine
        .store()
        .ledger(bearer.user, before, limit + 1)
        .await?;
    let has_more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries
        .last()
        .filter(|_| has_more)
        .map(|entry| entry.entry_id.to_string());
    Ok(reply::json(
        StatusCode::OK,
        &LedgerPage {
            entries,
            next_cursor,
        },
    ))
}

/// The database knows a live session's cost up to its last settlement; the engine up to now.
fn bring_up_to_date(session: &mut SessionRecord, live: Option<ActiveSession>) {
    if let Some(live) = live.filter(|live| live.session_id == session.session_id) {
        session.credits_consumed = live.consumed;
    }
}

fn limit(parameters: Option<&str>) -> Result<u32, Failure> {
    let Some(text) = query(parameters, "limit")? else {
        return Ok(LIMIT_DEFAULT);
    };
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| {
        wrong_parameter(
            "limit",
            &format!("must be a whole number from 1 to {LIMIT_MAX}"),
        )
    })
}

fn cursor<T>(
    parameters: Option<&str>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let Some(text) = query(parameters, "cursor")? else {
        return Ok(None);
    };
    parse(&text)
        .map(Some)
        .ok_or_else(|| wrong_parameter("cursor", "must be the nextCursor of an earlier page"))
}

fn session_cursor(session: &SessionRecord) -> String {
    format!("{}-{}", session.started_at, session.session_id)
}

fn parse_session_cursor(text: &str) -> Option<SessionCursor> {
    let (started_at, session) = text.split_once('-')?;
    let started_at = UnixMillis::new(started_at.parse().ok()?).ok()?;
    Some(SessionCursor {
        started_at,
        session: SessionId::new(session.parse().ok()?).ok()?,
    })
}
