//! The list of the wallet's movements.

use schema::{CreditsChange, UnixMillis, ledger::LedgerEntry};
use yew::{Html, classes, html};

use super::history::{LiveRow, Rows, empty, skeleton};
use crate::{
    browser::locale,
    feed::FeedStatus,
    unsettled,
    words::{self, LocalDay},
};

/// The list: what the live session has cost since it was last settled comes first, then what stands
/// in the ledger.
pub(super) fn view(rows: &Rows) -> Html {
    let feed = &rows.ledger;
    if feed.rows().is_empty() {
        return match feed.status() {
            FeedStatus::Unasked | FeedStatus::Loading => skeleton(),
            FeedStatus::Failed(_) => Html::default(),
            FeedStatus::Ready | FeedStatus::LoadingMore => {
                empty("Nothing has moved yet. Credits that come in or go out are listed here.")
            }
        };
    }
    html! {
        <table class="num wallet-list">
            <thead>
                <tr><th scope="col">{ "When" }</th><th scope="col">{ "What" }</th><th scope="col">{ "Credits" }</th>
                    <th scope="col">{ "Balance" }</th></tr>
            </thead>
            <tbody>
                { for rows.live.iter().map(|live| live_row(live, rows)) }
                { for feed.rows().iter().map(|entry| row(entry, rows.today)) }
            </tbody>
        </table>
    }
}

/// The part of the session's cost that is not in the ledger yet.
fn live_row(live: &LiveRow, rows: &Rows) -> Html {
    let charged = unsettled::cost(&live.session, &rows.ledger);
    html! {
        <tr key="live" data-testid="ledger-live">
            <td>{ "Now" }<span class="sub">{ "Session, running" }</span></td>
            <td>{ "Session " }<span class="tag live">{ "Running" }</span></td>
            <td><bdi>{ words::change(CreditsChange::outgoing(charged)) }</bdi></td>
            <td><bdi>{ words::number(live.credits.get()) }</bdi></td>
        </tr>
    }
}

fn row(entry: &LedgerEntry, today: Option<LocalDay>) -> Html {
    let what = html! {
        <>
            { words::movement(entry.kind) }
            if let Some(reason) = &entry.reason {
                { ": " }<bdi>{ reason.clone() }</bdi>
            }
        </>
    };
    let came_in = entry.amount.get() > 0;
    html! {
        <tr key={entry.entry_id.get()} data-testid="ledger-row" data-entry={entry.entry_id.to_string()}>
            <td><bdi>{ when(entry.at, today) }</bdi><span class="sub">{ what.clone() }</span></td>
            <td>{ what }</td>
            <td class={classes!(came_in.then_some("in"))}><bdi>{ words::change(entry.amount) }</bdi></td>
            <td><bdi>{ words::number(entry.balance_after.get()) }</bdi></td>
        </tr>
    }
}

fn when(at: UnixMillis, today: Option<LocalDay>) -> String {
    locale::day_and_time(at, today.unwrap_or_else(|| locale::day_of(at)))
}
