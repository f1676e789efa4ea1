//! The list of the wallet's movements.

use schema::{CreditsChange, UnixMillis, ledger::LedgerEntry};
use yew::{Html, classes, html};

use super::history::{LiveRow, Rows, empty, skeleton};
use crate::{browser, feed::FeedStatus, words, words::LocalDateTime};

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

/// The part of the balance that is charged but not settled. It is not in the ledger yet.
fn live_row(live: &LiveRow, rows: &Rows) -> Html {
    let settled = rows
        .ledger
        .rows()
        .first()
        .map_or(live.credits, |entry| entry.balance_after);
    let charged = settled.checked_sub(live.credits).unwrap_or_default();
    html! {
        <tr key="live" data-testid="ledger-live">
            <td>{ "Now" }<span class="sub">{ "Session, running" }</span></td>
            <td>{ "Session " }<span class="tag live">{ "Running" }</span></td>
            <td>{ words::change(CreditsChange::outgoing(charged)) }</td>
            <td>{ words::number(live.credits.get()) }</td>
        </tr>
    }
}

fn row(entry: &LedgerEntry, today: Option<LocalDateTime>) -> Html {
    let what = match &entry.reason {
        Some(reason) => format!("{}: {reason}", words::movement(entry.kind)),
        None => words::movement(entry.kind).to_owned(),
    };
    let came_in = entry.amount.get() > 0;
    html! {
        <tr key={entry.entry_id.get()} data-testid="ledger-row" data-entry={entry.entry_id.to_string()}>
            <td>{ when(entry.at, today) }<span class="sub">{ what.clone() }</span></td>
            <td>{ what }</td>
            <td class={classes!(came_in.then_some("in"))}>{ words::change(entry.amount) }</td>
            <td>{ words::number(entry.balance_after.get()) }</td>
        </tr>
    }
}

fn when(at: UnixMillis, today: Option<LocalDateTime>) -> String {
    let at = browser::local(at);
    at.relative_to(today.unwrap_or(at))
}
