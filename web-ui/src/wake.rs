//! When the page has to look again by itself: the next instant at which something is due or something
//! on the screen changes. One timer serves all.

use schema::{Millis, UnixMillis};

use crate::{
    clock::LocalTime,
    model::{Dashboard, LinkPhase, PendingPhase, Screen, State},
    reducer::CONNECT_WITHIN,
};

/// How often the line of the last minutes moves on while nothing else does.
const IDLE: Millis = match Millis::new(5_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};
/// No two looks are nearer to each other than this.
const LEAST: Millis = match Millis::new(20) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};
const SECOND_MS: i64 = 1_000;

/// How long after `now` to look again; nothing where only an action can change something.
pub fn next_wake(state: &State, now: LocalTime) -> Option<Millis> {
    let notices = state.notices.list().iter().flat_map(|notice| {
        let retry = notice.retry_at.filter(|retry_at| *retry_at > now);
        [
            retry.map(|retry_at| to_next_second(retry_at.since(now))),
            notice.expires_at.map(|at| at.since(now)),
        ]
    });
    let screen = match &state.screen {
        Screen::Entry(entry) => [
            entry
                .retry_at
                .filter(|at| *at > now)
                .map(|at| to_next_second(at.since(now))),
            None,
            None,
            None,
        ],
        Screen::Dashboard(dashboard) => on_dashboard(dashboard, now),
    };
    notices
        .chain(screen)
        .flatten()
        .min()
        .map(|wait| wait.max(LEAST))
}

fn on_dashboard(dashboard: &Dashboard, now: LocalTime) -> [Option<Millis>; 4] {
    let link = match dashboard.link.phase {
        LinkPhase::Connecting { since } => Some(since.after(CONNECT_WITHIN).since(now)),
        LinkPhase::Waiting { until } => Some(to_next_second(until.since(now))),
        LinkPhase::Live { .. } => None,
    };
    let pending = dashboard.pending.and_then(|pending| match pending.phase {
        PendingPhase::Unknown { retry_at } => Some(retry_at.since(now)),
        PendingPhase::Sent | PendingPhase::Done => None,
    });
    let second = dashboard.live.and_then(|live| {
        let session = live.balance.session?;
        // What is shown changes when this is a whole number of seconds away.
        let mark = session
            .depletes_at
            .or(session.next_charge_at)
            .unwrap_or(session.started_at);
        Some(to_phase(mark, live.clock.at(now)))
    });
    let idle = dashboard.live.map(|_| IDLE);
    [link, pending, second, idle]
}

/// How long until `left` shows a whole second less.
fn to_next_second(left: Millis) -> Millis {
    let rest = left.get() % SECOND_MS;
    let wait = if rest == 0 && left > Millis::ZERO {
        SECOND_MS
    } else {
        rest
    };
    Millis::new(wait).unwrap_or(IDLE)
}

/// How long until the server's time is a whole number of seconds before or after `mark`.
fn to_phase(mark: UnixMillis, now: UnixMillis) -> Millis {
    let rest = (mark.get() - now.get()).rem_euclid(SECOND_MS);
    Millis::new(if rest == 0 { SECOND_MS } else { rest }).unwrap_or(IDLE)
}
