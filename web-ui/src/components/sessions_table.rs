//! The list of sessions.

use schema::session::SessionRecord;
use yew::{Html, html};

use super::history::{LiveRow, Rows, RunningFor, empty, skeleton};
use crate::{
    browser::locale,
    feed::FeedStatus,
    words::{self, LocalDay},
};

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

fn live_row(live: &LiveRow, today: Option<LocalDay>) -> Html {
    let session = &live.session;
    html! {
        <tr key={session.session_id.get()} data-testid="sessions-row" data-session={session.session_id.to_string()}>
            <td>{ started(session.started_at, today) }<span class="sub"><RunningFor live={*live} /></span></td>
            <td><RunningFor live={*live} /></td>
            <td><span class="tag live">{ "Live" }</span></td>
            <td><bdi>{ words::number(session.consumed.get()) }</bdi></td>
        </tr>
    }
}

fn row(record: &SessionRecord, today: Option<LocalDay>) -> Html {
    let length = words::length(record.served_ms);
    let ended_by = record.end_reason.map_or("Not over", words::ended_by);
    html! {
        <tr key={record.session_id.get()} data-testid="sessions-row" data-session={record.session_id.to_string()}>
            <td>{ started(record.started_at, today) }<span class="sub"><bdi>{ length.clone() }</bdi></span></td>
            <td><bdi>{ length }</bdi></td>
            <td><span class="tag">{ ended_by }</span></td>
            <td><bdi>{ words::number(record.credits_consumed.get()) }</bdi></td>
        </tr>
    }
}

fn started(at: schema::UnixMillis, today: Option<LocalDay>) -> Html {
    let today = today.unwrap_or_else(|| locale::day_of(at));
    html! { <bdi>{ locale::day_and_time(at, today) }</bdi> }
}
