//! The list of sessions.

use schema::{Millis, session::SessionRecord};
use yew::{Html, html};

use super::history::{LiveRow, Rows, empty, skeleton};
use crate::{browser, feed::FeedStatus, words, words::LocalDateTime};

/// The list: the live session first, then the others.
pub(super) fn view(rows: &Rows) -> Html {
    let feed = &rows.sessions;
    if feed.rows().is_empty() && rows.live.is_none() {
        return match feed.status() {
            FeedStatus::Unasked | FeedStatus::Loading => skeleton(),
            FeedStatus::Failed(_) => Html::default(),
            FeedStatus::Ready | FeedStatus::LoadingMore => empty(
                "No sessions yet. Press Start: each one is listed here with its length and its cost.",
            ),
        };
    }
    let live_id = rows.live.map(|live| live.session.session_id);
    let others = feed
        .rows()
        .iter()
        .filter(|record| Some(record.session_id) != live_id);
    html! {
        <table class="num">
            <thead>
                <tr><th scope="col">{ "Started" }</th><th scope="col">{ "Length" }</th><th scope="col">{ "Ended by" }</th>
                    <th scope="col">{ "Credits" }</th></tr>
            </thead>
            <tbody>
                { for rows.live.iter().map(|live| live_row(live, rows.today)) }
                { for others.map(|record| row(record, rows.today)) }
            </tbody>
        </table>
    }
}

fn live_row(live: &LiveRow, today: Option<LocalDateTime>) -> Html {
    let session = &live.session;
    let started = started(session.started_at, today);
    let length = words::length(Millis::new(live.running_s * 1_000).unwrap_or(Millis::ZERO));
    html! {
        <tr key={session.session_id.get()} data-testid="sessions-row" data-session={session.session_id.to_string()}>
            <td>{ started }<span class="sub">{ length.clone() }</span></td>
            <td>{ length }</td>
            <td><span class="tag live">{ "Live" }</span></td>
            <td>{ words::number(session.consumed.get()) }</td>
        </tr>
    }
}

fn row(record: &SessionRecord, today: Option<LocalDateTime>) -> Html {
    let length = words::length(record.served_ms);
    let ended_by = record.end_reason.map_or("Not over", words::ended_by);
    html! {
        <tr key={record.session_id.get()} data-testid="sessions-row" data-session={record.session_id.to_string()}>
            <td>{ started(record.started_at, today) }<span class="sub">{ length.clone() }</span></td>
            <td>{ length }</td>
            <td><span class="tag">{ ended_by }</span></td>
            <td>{ words::number(record.credits_consumed.get()) }</td>
        </tr>
    }
}

fn started(at: schema::UnixMillis, today: Option<LocalDateTime>) -> String {
    let at = browser::local(at);
    at.relative_to(today.unwrap_or(at))
}
