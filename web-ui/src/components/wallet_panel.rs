//! The balance in its ring, the countdown, and the button to start and stop.

use schema::{
    Credits,
    session::{ActiveSession, LiveBalance},
    websocket::TOO_MANY_CONNECTIONS,
};
use yew::{Callback, Html, classes, html};

use super::icon;
use crate::{
    action::Action,
    browser::locale,
    clock::LocalTime,
    countdown::{Countdown, Level, thousandths},
    model::{Dashboard, Live, PendingPhase, SessionEnd, Verb},
    reducer, words,
};

/// The shortest interval whose charges are counted down one by one.
const COUNTED_INTERVAL_MS: i64 = 2_000;

/// The panel.
pub(super) fn view(dashboard: &Dashboard, now: LocalTime, dispatch: &Callback<Action>) -> Html {
    let balance = dashboard.live.map(|live| live.balance);
    html! {
        <section class={classes!("panel", "wallet", dashboard.link.is_lost().then_some("stale"))} aria-label="Balance" tabindex="-1">
            { ring(dashboard, balance) }
            <div class="below">
                { below(dashboard, now, dispatch) }
                { trouble(dashboard) }
            </div>
            { button(dashboard, balance, dispatch) }
        </section>
    }
}

fn ring(dashboard: &Dashboard, balance: Option<LiveBalance>) -> Html {
    let share = balance.map_or(0, |balance| thousandths(balance.credits, dashboard.whole));
    let share = if balance.is_some_and(|balance| balance.credits.is_zero()) {
        0
    } else {
        share
    };
    html! {
        <div class="ring">
            <svg viewBox="0 0 36 36" aria-hidden="true">
                <circle class="t" cx="18" cy="18" r="15.915" />
                <circle class={classes!("v", (share == 0).then_some("none"))} pathLength="1000" cx="18" cy="18" r="15.915"
                    stroke-dasharray="1000" stroke-dashoffset={(1_000 - share).to_string()} />
            </svg>
            <div>{ figure(dashboard, balance) }</div>
        </div>
    }
}

fn figure(dashboard: &Dashboard, balance: Option<LiveBalance>) -> Html {
    let Some(balance) = balance else {
        return html! { <><span class="big num wait" data-testid="balance-wait"><span aria-hidden="true">{ "–" }</span><span class="unseen">{ "Loading" }</span></span><span class="unit">{ "credits" }</span></> };
    };
    let text = words::number(balance.credits.get());
    let size = match text.chars().count() {
        0..=3 => None,
        4..=6 => Some("long"),
        _ => Some("longer"),
    };
    let unit = if balance.credits < dashboard.whole {
        format!("of {}", words::credits(dashboard.whole))
    } else {
        words::unit(balance.credits).to_owned()
    };
    html! {
        <>
            <bdi class={classes!("big", "num", size)} data-testid="balance" data-credits={balance.credits.get().to_string()}>
                { text }
            </bdi>
            <bdi class="unit num">{ unit }</bdi>
        </>
    }
}

/// The lines below the ring. They have the same room whatever they say.
fn below(dashboard: &Dashboard, now: LocalTime, dispatch: &Callback<Action>) -> Html {
    let Some(live) = dashboard.live else {
        return html! { <p class="rate">{ "Waiting for the server…" }</p> };
    };
    let time = live.clock.at(dashboard.known_until(now));
    if let Some(session) = live.balance.session {
        let countdown = Countdown::at(&session, live.balance.credits, time);
        return running(dashboard, &session, &countdown);
    }
    match &dashboard.last_end {
        Some(end) if dashboard.is_end_card_up => {
            let ended_at = locale::moment(end.ended_at, time);
            end_card(end, &ended_at, live.balance.credits, dispatch)
        }
        _ if live.balance.credits.is_zero() => html! {
            <><p class="left">{ "No credits left" }</p><p class="rate">{ "Once credits come in, you can start again." }</p></>
        },
        _ => html! {
            <><p class="left">{ "Ready when you are" }</p><p class="rate">{ "Credits fall only while a session runs." }</p></>
        },
    }
}

fn running(dashboard: &Dashboard, session: &ActiveSession, countdown: &Countdown) -> Html {
    let left = match (countdown.next_charge_in, countdown.left) {
        (None, _) => "Paused: nothing is charged".to_owned(),
        (Some(_), Some(left)) => format!("{} left", words::time_left(left)),
        (Some(_), None) => "No end in sight".to_owned(),
    };
    let rate = words::rate(session.credits_per_interval, session.interval_ms);
    let next = countdown
        .next_charge_in
        .filter(|_| session.interval_ms.get() >= COUNTED_INTERVAL_MS)
        .map(|next| format!(" · next in {} s", words::number(words::seconds_up(next))));
    let warning = match dashboard.level {
        Level::Fine => None,
        Level::Low => Some("Credits are low"),
        Level::Last => Some("Credits are about to run out"),
    };
    html! {
        <>
            <p class="left num" data-testid="time-left">{ left }</p>
            <p class="rate num">{ rate }{ next }</p>
            if let Some(warning) = warning {
                <p class="warning" data-testid="low-warning">{ icon::warning() }{ warning }</p>
            }
        </>
    }
}

/// What is shown, as of when, and why nothing newer is known. Only where there is no connection.
fn trouble(dashboard: &Dashboard) -> Html {
    let link = &dashboard.link;
    if !link.is_lost() {
        return Html::default();
    }
    let why = match link.refusal.as_deref() {
        Some(TOO_MANY_CONNECTIONS) => {
            "Too many connections of this account are open: close another tab or device".to_owned()
        }
        Some(reason) => format!(
            "The server wants no connection now: {}",
            reason.trim_end_matches('.')
        ),
        None => "No connection to the server".to_owned(),
    };
    let as_of = dashboard.live.map(
        |Live {
             clock, heard_at, ..
         }| {
            let heard_at = clock.at(heard_at);
            html! { <>{ "As of " }<bdi>{ locale::moment(heard_at, heard_at) }</bdi>{ ". " }</> }
        },
    );
    let runs_on = dashboard.session().map(|_| " The session may run on.");
    html! {
        <p class="trouble num" data-testid="as-of">{ as_of }{ why }{ "." }{ runs_on }</p>
    }
}

fn end_card(end: &SessionEnd, ended_at: &str, left: Credits, dispatch: &Callback<Action>) -> Html {
    let left = if left.is_zero() {
        String::new()
    } else {
        format!(" {} left.", words::credits(left))
    };
    html! {
        <div class="end" data-testid="end-card" data-reason={end.reason.as_str()}>
            <p class="left">{ icon::warning() }{ reducer::end_headline(end.reason) }</p>
            <p class="rate num">{ format!("{}, until {ended_at}.{left}", reducer::cost(end)) }</p>
            <button class="link" type="button" onclick={dispatch.reform(|_| Action::EndCardDismissed)}>
                { "OK" }<span class="unseen">{ ", dismiss" }</span>
            </button>
        </div>
    }
}

/// One button for both, so that the keyboard's focus stays on it when a session begins or ends.
fn button(
    dashboard: &Dashboard,
    balance: Option<LiveBalance>,
    dispatch: &Callback<Action>,
) -> Html {
    let is_running = dashboard.session().is_some();
    let pending = dashboard.pending;
    let is_retrying =
        pending.is_some_and(|pending| matches!(pending.phase, PendingPhase::Unknown { .. }));
    let words = match (pending.map(|pending| pending.verb), is_running) {
        (Some(_), _) if is_retrying => "Trying again…",
        (Some(Verb::Start), _) => "Starting…",
        (Some(Verb::Stop), _) => "Stopping…",
        (None, true) => "Stop session",
        (None, false) => "Start session",
    };
    let can_start = balance.is_some_and(|balance| !balance.credits.is_zero());
    let is_off = pending.is_some() || (!is_running && !can_start);
    let onclick = dispatch.reform(move |_| {
        if is_running {
            Action::StopPressed
        } else {
            Action::StartPressed
        }
    });
    html! {
        <button class={classes!("go", is_running.then_some("stop"))} type="button"
            data-testid={if is_running { "stop" } else { "start" }}
            aria-disabled={is_off.to_string()} aria-busy={pending.is_some().to_string()} {onclick}>
            { words }
        </button>
    }
}
