//! The lists of sessions and of the wallet's movements, behind tabs.

use schema::{
    Credits,
    ledger::LedgerEntry,
    session::{ActiveSession, SessionRecord},
};
use web_sys::KeyboardEvent;
use yew::{Callback, Html, Properties, function_component, html, use_context};

use super::{sessions_table, wallet_table};
use crate::{
    action::Action,
    browser::{self, locale},
    clock::{LocalTime, ServerClock},
    countdown::Countdown,
    feed::{Feed, FeedStatus, Row},
    model::{Dashboard, Tab},
    words::{self, LocalDay},
};

/// What a list shows.
#[derive(Clone, PartialEq)]
pub(super) struct Rows {
    /// The sessions.
    pub(super) sessions: Feed<SessionRecord>,
    /// The movements.
    pub(super) ledger: Feed<LedgerEntry>,
    /// The live session and what is left.
    pub(super) live: Option<LiveRow>,
    /// The day that it is here.
    pub(super) today: Option<LocalDay>,
}

/// The live session as a row.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct LiveRow {
    /// Its facts.
    pub(super) session: ActiveSession,
    /// The balance.
    pub(super) credits: Credits,
    /// The server's clock.
    pub(super) clock: ServerClock,
}

impl Rows {
    /// What to show of `dashboard` at `now`. Equal until the server says something new or the day ends: what
    /// passes with each second is [`RunningFor`]'s, so that the list isn't drawn anew for it.
    pub(super) fn of(dashboard: &Dashboard, now: LocalTime) -> Self {
        let live = dashboard.live.and_then(|live| {
            Some(LiveRow {
                session: live.balance.session?,
                credits: live.balance.credits,
                clock: live.clock,
            })
        });
        let today = dashboard
            .live
            .map(|live| locale::day_of(live.clock.at(now)));
        Self {
            sessions: dashboard.sessions.clone(),
            ledger: dashboard.ledger.clone(),
            live,
            today,
        }
    }
}

/// What a running session's length follows from.
#[derive(PartialEq, Properties)]
pub(super) struct RunningForProps {
    /// The session.
    pub(super) live: LiveRow,
}

/// How long the live session runs. It alone is drawn anew each second, by the time around it.
#[function_component]
pub(super) fn RunningFor(props: &RunningForProps) -> Html {
    let LiveRow {
        session,
        credits,
        clock,
    } = props.live;
    let time = use_context::<LocalTime>().map(|now| clock.at(now));
    let length = time.map(|time| Countdown::at(&session, credits, time).running_for);
    html! { <bdi>{ length.map(words::length) }</bdi> }
}

/// What the panel shows.
#[derive(PartialEq, Properties)]
pub(super) struct Props {
    /// Which list is open.
    pub(super) tab: Tab,
    /// What is in the lists.
    pub(super) rows: Rows,
    /// Takes what the user does.
    pub(super) dispatch: Callback<Action>,
}

/// The panel. Arrow keys move between the tabs, and only the open one is a stop for the Tab key.
#[function_component]
pub(super) fn History(props: &Props) -> Html {
    let Props {
        tab,
        rows,
        dispatch,
    } = props;
    let onkeydown = {
        let (tab, dispatch) = (*tab, dispatch.clone());
        Callback::from(move |event: KeyboardEvent| {
            let Some(chosen) = chosen_by_key(tab, &event.key()) else {
                return;
            };
            event.prevent_default();
            dispatch.emit(Action::TabChosen(chosen));
            browser::focus_id(tab_id(chosen));
        })
    };
    let list = match tab {
        Tab::Sessions => sessions_table::view(rows),
        Tab::Wallet => wallet_table::view(rows),
    };
    let foot = match tab {
        Tab::Sessions => foot(&rows.sessions, dispatch),
        Tab::Wallet => foot(&rows.ledger, dispatch),
    };
    html! {
        <section class="panel hist" aria-label="History">
            <div class="tabs" role="tablist" aria-label="History" {onkeydown}>
                { tab_button(Tab::Sessions, *tab, dispatch) }
                { tab_button(Tab::Wallet, *tab, dispatch) }
            </div>
            <div class="list" role="tabpanel" id="list" tabindex="-1" aria-labelledby={tab_id(*tab)}>
                { list }
                { foot }
            </div>
        </section>
    }
}

fn tab_button(tab: Tab, open: Tab, dispatch: &Callback<Action>) -> Html {
    let (label, testid) = match tab {
        Tab::Sessions => ("Sessions", "tab-sessions"),
        Tab::Wallet => ("Wallet", "tab-wallet"),
    };
    let is_open = tab == open;
    html! {
        <button type="button" role="tab" id={tab_id(tab)} data-testid={testid} aria-selected={is_open.to_string()}
            aria-controls="list" tabindex={if is_open { "0" } else { "-1" }}
            onclick={dispatch.reform(move |_| Action::TabChosen(tab))}>{ label }</button>
    }
}

const fn tab_id(tab: Tab) -> &'static str {
    match tab {
        Tab::Sessions => "tab-sessions",
        Tab::Wallet => "tab-wallet",
    }
}

/// Which tab a key leads to from `open`. With two of them, both arrows lead to the other.
fn chosen_by_key(open: Tab, key: &str) -> Option<Tab> {
    match key {
        "ArrowLeft" | "ArrowRight" => Some(match open {
            Tab::Sessions => Tab::Wallet,
            Tab::Wallet => Tab::Sessions,
        }),
        "Home" => Some(Tab::Sessions),
        "End" => Some(Tab::Wallet),
        _ => None,
    }
}

/// What comes after the rows: trouble, or a way to older ones.
fn foot<R: Row>(feed: &Feed<R>, dispatch: &Callback<Action>) -> Html {
    match feed.status() {
        FeedStatus::Failed(why) => html! {
            <div class="failed" role="alert" data-testid="history-error">
                <p>{ "The list could not be loaded. " }{ why.clone() }</p>
                <button class="plain" type="button" data-testid="history-retry"
                    onclick={dispatch.reform(|_| Action::RetryPressed)}>{ "Try again" }</button>
            </div>
        },
        FeedStatus::LoadingMore => html! {
            <div class="more"><button class="plain" type="button" aria-disabled="true">{ "Loading…" }</button></div>
        },
        _ if feed.has_more() => html! {
            <div class="more">
                <button class="plain" type="button" data-testid="load-more"
                    onclick={dispatch.reform(|_| Action::MorePressed)}>{ "Load more" }</button>
            </div>
        },
        _ => Html::default(),
    }
}

/// Rows that keep the place of those on their way.
pub(super) fn skeleton() -> Html {
    html! {
        <div class="waiting" role="status" aria-label="Loading">
            { for (0..3).map(|_| html! { <div class="bar"></div> }) }
        </div>
    }
}

/// What stands where there are no rows.
pub(super) fn empty(sentence: &'static str) -> Html {
    html! { <p class="empty" data-testid="history-empty">{ sentence }</p> }
}
