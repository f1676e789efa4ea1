//! When the page has to look again by itself: the next instant at which something is due or something
//! on the screen changes. One timer serves all.

use schema::{Millis, UnixMillis};

use crate::{
    clock::LocalTime,
    model::{Dashboard, LinkPhase, PendingPhase, Screen, State},
    reducer::{CONNECT_WITHIN, SILENCE_MAX},
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
        let retry = notice.retry.filter(|retry| retry.at > now);
        [
            retry.map(|retry| to_next_second(retry.at.since(now))),
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
        LinkPhase::Live { heard_at } => Some(heard_at.after(SILENCE_MAX).since(now)),
    };
    let pending = dashboard.pending.and_then(|pending| match pending.phase {
        PendingPhase::Unknown { retry_at } => Some(retry_at.since(now)),
        PendingPhase::Sent | PendingPhase::Done => None,
    });
    // Without the server no time runs on.
    let counting = dashboard.live.filter(|_| dashboard.is_live());
    let second = counting.and_then(|live| {
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

#[cfg(test)]
mod tests {
    use schema::{
        Credits, SessionId,
        session::{ActiveSession, LiveBalance},
    };

    use super::*;
    use crate::{
        action::Action,
        api::Token,
        clock::{Moment, ServerClock},
        model::Live,
        reducer::{initial, reduce},
    };

    fn unix(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    /// A dashboard that was opened at 0 and has just connected, with the balance's facts.
    fn dashboard(session: Option<ActiveSession>) -> (State, Box<Dashboard>) {
        let token = Some(Token::new("t".to_owned()));
        let moment = Moment {
            now: LocalTime::new(0),
            entropy: 0,
        };
        let (state, _) = reduce(initial(), Action::Opened(token), moment);
        let Screen::Dashboard(mut dashboard) = state.screen.clone() else {
            panic!("no dashboard")
        };
        let balance = LiveBalance {
            credits: Credits::ZERO,
            as_of: unix(0),
            session,
        };
        let clock = ServerClock::new(unix(0), LocalTime::new(0));
        dashboard.live = Some(Live {
            balance,
            clock,
            heard_at: LocalTime::new(0),
        });
        dashboard.link.phase = LinkPhase::Live {
            heard_at: LocalTime::new(0),
        };
        (state, dashboard)
    }

    /// When to look again after `now`, at which the server was heard if it is heard at all.
    fn wake((state, mut dashboard): (State, Box<Dashboard>), now: i64) -> Option<i64> {
        if let LinkPhase::Live { heard_at } = &mut dashboard.link.phase {
            *heard_at = LocalTime::new(now);
        }
        let state = State {
            screen: Screen::Dashboard(dashboard),
            ..state
        };
        next_wake(&state, LocalTime::new(now)).map(Millis::get)
    }

    #[test]
    fn a_card_waits_for_the_user() {
        assert_eq!(next_wake(&initial(), LocalTime::new(0)), None);
    }

    #[test]
    fn a_countdown_moves_as_its_second_does() {
        let session = ActiveSession {
            session_id: SessionId::new(1).unwrap(),
            started_at: unix(0),
            consumed: Credits::ZERO,
            credits_per_interval: Credits::new(1).unwrap(),
            interval_ms: Millis::new(6_000).unwrap(),
            next_charge_at: Some(unix(6_250)),
            depletes_at: Some(unix(600_250)),
        };
        assert_eq!(wake(dashboard(Some(session)), 100), Some(150));
        assert_eq!(wake(dashboard(Some(session)), 250), Some(1_000));
        assert_eq!(
            wake(dashboard(Some(session)), 700_000),
            Some(250),
            "also when it is over"
        );
        assert_eq!(wake(dashboard(Some(session)), 249), Some(LEAST.get()));
        assert_eq!(wake(dashboard(None), 100), Some(IDLE.get()));

        let (state, mut lost) = dashboard(Some(session));
        lost.link.phase = LinkPhase::Waiting {
            until: LocalTime::new(9_000),
        };
        assert_eq!(
            wake((state, lost), 100),
            Some(900),
            "without the server no countdown moves"
        );
    }

    #[test]
    fn silence_is_noticed() {
        let (state, dashboard) = dashboard(None);
        let state = State {
            screen: Screen::Dashboard(dashboard),
            ..state
        };
        let silent_for = SILENCE_MAX.get() - 100;
        let wait = next_wake(&state, LocalTime::new(silent_for));
        assert_eq!(wait.map(Millis::get), Some(100));
    }

    #[test]
    fn nothing_due_is_missed() {
        let (state, mut dashboard) = dashboard(None);
        dashboard.live = None;
        dashboard.link.phase = LinkPhase::Connecting {
            since: LocalTime::new(0),
        };
        assert_eq!(wake((state.clone(), dashboard.clone()), 9_000), Some(1_000));
        dashboard.link.phase = LinkPhase::Waiting {
            until: LocalTime::new(2_300),
        };
        assert_eq!(
            wake((state.clone(), dashboard.clone()), 0),
            Some(300),
            "the shown seconds change"
        );
        assert_eq!(wake((state, dashboard), 2_200), Some(100));
    }
}
