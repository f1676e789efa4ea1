//! What follows from a balance, and from the end of a session.

use schema::{
    Credits, SessionId, UnixMillis,
    account::User,
    session::{EndReason, LiveBalance},
    websocket::CreditUpdate,
};

use super::{Context, command, history, link};
use crate::{
    clock::ServerClock,
    countdown::{Countdown, Level},
    model::{Live, SessionEnd},
    words,
};

/// How a session ended, as a message or an answer says it.
#[derive(Clone, Copy)]
pub(super) struct EndFacts {
    pub(super) session_id: SessionId,
    pub(super) reason: EndReason,
    pub(super) ended_at: UnixMillis,
    pub(super) consumed: Credits,
}

/// Takes the first balance of a socket. Whatever was believed before, this is how things stand.
pub(super) fn first_on_socket(context: &mut Context, update: CreditUpdate) {
    let clock = ServerClock::new(update.as_of, context.moment.now);
    take(
        context,
        LiveBalance {
            credits: update.credits,
            as_of: update.as_of,
            session: update.session,
        },
        clock,
    );
}

/// Takes a further balance of the same socket. A socket keeps the order, so it is the newest.
pub(super) fn pushed(context: &mut Context, update: CreditUpdate) {
    let clock = refined_clock(context, update.as_of);
    take(
        context,
        LiveBalance {
            credits: update.credits,
            as_of: update.as_of,
            session: update.session,
        },
        clock,
    );
}

/// Takes a balance that an HTTP answer brought. It may have been overtaken by the socket, or speak
/// of a session as live whose end is known.
pub(super) fn answered(context: &mut Context, balance: LiveBalance) {
    let is_overtaken = context
        .dashboard
        .live
        .is_some_and(|live| balance.as_of < live.balance.as_of);
    let ended = context.dashboard.last_end.map(|end| end.session_id);
    let is_over = balance
        .session
        .is_some_and(|session| Some(session.session_id) == ended);
    if !is_overtaken && !is_over {
        let clock = refined_clock(context, balance.as_of);
        take(context, balance, clock);
    }
}

/// Learns whose token it is. Where that is somebody else than before, as another tab wanted it, it is
/// said until it is read: the balance and the buttons are another person's now.
pub(super) fn whose(context: &mut Context, user: User) {
    if let Some(before) = context.dashboard.followed_from.take()
        && before != user.email
    {
        context.notices.clear();
        context.notices.insist(format!(
            "Another tab logged in as {}. This one shows that account now, and no longer {before}.",
            user.email
        ));
    }
    context.dashboard.email = Some(user.email);
    answered(
        context,
        LiveBalance {
            credits: user.credits,
            as_of: user.as_of,
            session: user.session,
        },
    );
}

/// Learns how a session ended, and what is left.
pub(super) fn ended(context: &mut Context, facts: EndFacts, final_credits: Option<Credits>) {
    let EndFacts {
        session_id,
        reason,
        ended_at,
        consumed,
    } = facts;
    let lost = context.dashboard.unexplained;
    let known = context
        .dashboard
        .session()
        .or(lost)
        .filter(|session| session.session_id == session_id);
    show_end(
        context,
        SessionEnd {
            session_id,
            started_at: known.map(|session| session.started_at),
            ended_at,
            reason,
            consumed,
            served: None,
        },
    );
    if let (Some(live), Some(credits)) = (context.dashboard.live, final_credits)
        && live
            .balance
            .session
            .is_some_and(|session| session.session_id == session_id)
    {
        let as_of = live.balance.as_of.max(ended_at);
        take(
            context,
            LiveBalance {
                credits,
                as_of,
                session: None,
            },
            live.clock,
        );
    }
    history::reload(context);
}

/// Shows how a session ended: briefly where the user wanted it, on a card where not. Said once,
/// however many messages say it; the history may put it more exactly.
pub(super) fn show_end(context: &mut Context, end: SessionEnd) {
    let text = stopped_text(&end);
    let last = context.dashboard.last_end;
    if let Some(last) = last.filter(|last| last.session_id == end.session_id) {
        if end.served.is_some() {
            context.dashboard.last_end = Some(end);
            context.notices.reword(&stopped_text(&last), text);
        }
        return;
    }
    context.dashboard.last_end = Some(end);
    context.dashboard.unexplained = None;
    if end.reason == EndReason::User {
        context.notices.confirm(text, context.moment.now);
        return;
    }
    context.dashboard.is_end_card_up = true;
    let (headline, cost) = (end_headline(end.reason), cost(&end));
    *context.announcement = format!("{headline} The session is over: {cost}.");
}

fn stopped_text(end: &SessionEnd) -> String {
    format!("Session stopped: {}.", cost(end))
}

/// What a session has cost and how long it was: `27 credits for 2 min 44 s`.
pub fn cost(end: &SessionEnd) -> String {
    let credits = words::credits(end.consumed);
    match end.length() {
        Some(length) => format!("{credits} for {}", words::length(length)),
        None => credits,
    }
}

/// The sentence over the card that says how a session ended.
pub const fn end_headline(reason: EndReason) -> &'static str {
    match reason {
        EndReason::User => "You stopped the session.",
        EndReason::Depleted => "Your credits ran out.",
        EndReason::Admin => "An operator stopped your session.",
        EndReason::Engine => "The service ended your session.",
    }
}

/// The server says that little is left.
pub(super) fn called_low(context: &mut Context) {
    context.dashboard.called_low = context
        .dashboard
        .session()
        .map(|session| session.session_id);
    tick(context);
}

/// Credits came in.
pub(super) fn added(context: &mut Context, amount: Credits) {
    context.dashboard.called_low = None;
    context.notices.confirm(
        format!("{} added to your wallet.", words::credits(amount)),
        context.moment.now,
    );
    history::reload(context);
}

/// Sees how near the end is by now, and says so once.
pub(super) fn tick(context: &mut Context) {
    let dashboard = &mut *context.dashboard;
    let Some(live) = dashboard.live else { return };
    let now = live.clock.at(dashboard.known_until(context.moment.now));
    let mut level = Level::of(&live.balance, now);
    let session = live.balance.session;
    if session.is_some() && session.map(|session| session.session_id) == dashboard.called_low {
        level = level.max(Level::Low);
    }
    let was_fine = dashboard.level == Level::Fine;
    dashboard.level = level;
    if was_fine && level != Level::Fine {
        announce_balance(context, "Credits are low.", live);
    }
}

fn refined_clock(context: &Context, as_of: UnixMillis) -> ServerClock {
    let now = context.moment.now;
    context.dashboard.live.map_or_else(
        || ServerClock::new(as_of, now),
        |live| live.clock.refined(as_of, now),
    )
}

fn take(context: &mut Context, balance: LiveBalance, clock: ServerClock) {
    let before = context.dashboard.session();
    let dashboard = &mut *context.dashboard;
    let is_first = dashboard.live.is_none();
    let moved = dashboard
        .live
        .map_or(0, |before| moved(&before.balance, &balance));
    let live = Live {
        balance,
        clock,
        heard_at: context.moment.now,
    };
    if is_first {
        dashboard.spark.trace_back(&balance);
    } else if !dashboard.is_live() {
        link::break_line(dashboard);
    }
    dashboard.live = Some(live);
    dashboard.spark.push(balance.as_of, balance.credits);
    dashboard.whole = opening(&balance);

    let (old, new) = (
        before.map(|session| session.session_id),
        balance.session.map(|session| session.session_id),
    );
    if old == new {
        announce_tens(context, live);
        if moved != 0 {
            history::reload(context);
        }
        say_taken(context, moved);
    } else {
        let explained = context.dashboard.last_end.map(|end| end.session_id);
        if let Some(over) = before.filter(|over| Some(over.session_id) != explained) {
            context.dashboard.unexplained = Some(over);
        }
        if new.is_some() {
            began(context, live, is_first);
        }
        if !is_first {
            history::reload(context);
        }
    }
    tick(context);
}

/// By how much the wallet has changed from `before` to `now` by something else than the time of the
/// session that runs in both. Where a session began or ended meanwhile, the difference says nothing.
fn moved(before: &LiveBalance, now: &LiveBalance) -> i64 {
    let id = |balance: &LiveBalance| balance.session.map(|session| session.session_id);
    if id(before) == id(now) {
        opening(now).get() - opening(before).get()
    } else {
        0
    }
}

/// What there was when the live session started, and what came in since; without one, what there is.
fn opening(balance: &LiveBalance) -> Credits {
    let consumed = balance
        .session
        .map_or(Credits::ZERO, |session| session.consumed);
    balance
        .credits
        .checked_add(consumed)
        .unwrap_or(Credits::MAX)
}

/// Says that credits were taken out of the wallet. Of credits that come in, the server itself tells.
fn say_taken(context: &mut Context, moved: i64) {
    if moved < 0
        && let Ok(taken) = Credits::new(-moved)
    {
        let text = format!("{} taken out of your wallet.", words::credits(taken));
        context.notices.tell(text, context.moment.now);
    }
}

/// A session is live that wasn't before, as far as this page knew.
fn began(context: &mut Context, live: Live, was_there_before: bool) {
    let dashboard = &mut *context.dashboard;
    dashboard.is_end_card_up = false;
    dashboard.level = Level::Fine;
    dashboard.announced_tens = tens(live.balance.credits);
    command::confirmed_by_session(context);
    announce_balance(
        context,
        if was_there_before {
            "A session is running."
        } else {
            "Session started."
        },
        live,
    );
}

/// Says the balance each time it has passed a ten, and never for every charge.
fn announce_tens(context: &mut Context, live: Live) {
    let tens = tens(live.balance.credits);
    if live.balance.session.is_some() && tens != context.dashboard.announced_tens {
        context.dashboard.announced_tens = tens;
        announce_balance(context, "", live);
    }
}

fn announce_balance(context: &mut Context, lead: &str, live: Live) {
    let credits = words::credits(live.balance.credits);
    let left = live.balance.session.and_then(|session| {
        Countdown::at(
            &session,
            live.balance.credits,
            live.clock.at(context.moment.now),
        )
        .left
        .map(words::time_left)
    });
    *context.announcement = match left {
        Some(left) => format!("{lead} {credits}, {left} left."),
        None => format!("{lead} {credits}."),
    };
}

/// The tens that `credits` have come down to: 91 to 100 count as 10.
const fn tens(credits: Credits) -> i64 {
    credits.get() / 10 + (credits.get() % 10 > 0) as i64
}
