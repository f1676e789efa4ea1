//! The connection: opening it, listening, and coming back after it broke.

use schema::{
    Millis,
    websocket::{CloseCode, ServerMessage},
};

use super::{Context, GoesOn, balance, command, history};
use crate::{
    action::{Effect, Network},
    api::Call,
    model::{Dashboard, LinkPhase, SocketNumber},
};

const fn millis(millis: i64) -> Millis {
    match Millis::new(millis) {
        Ok(millis) => millis,
        Err(_) => Millis::ZERO,
    }
}

/// The longest first wait. Jitter takes up to half of it away; each failure doubles it.
const WAIT_FIRST: Millis = millis(1_000);
/// The longest wait of all.
const WAIT_MAX: Millis = millis(30_000);
/// The longest wait where the server has said that it is too busy.
const WAIT_BUSY: Millis = millis(10_000);
/// How long a socket may take until the first balance has come through it.
pub(crate) const CONNECT_WITHIN: Millis = millis(10_000);
/// After how much silence the server is asked to tell the balance again, whether a session runs or not.
pub const HEARTBEAT: Millis = millis(5_000);
/// For how long a socket may be silent before it counts as dead: two heartbeats and some delay. A browser
/// doesn't tell of a connection that broke without a word.
pub(crate) const SILENCE_MAX: Millis = millis(11_000);

/// Handles a message of the socket that counts.
pub(super) fn said(context: &mut Context, number: SocketNumber, message: &ServerMessage) {
    let link = &mut context.dashboard.link;
    if number != link.socket {
        return;
    }
    let is_first = !matches!(link.phase, LinkPhase::Live { .. });
    if is_first && !matches!(message, ServerMessage::CreditUpdate(_)) {
        return;
    }
    let now = context.moment.now;
    link.phase = LinkPhase::Live { heard_at: now };
    if let Some(live) = context.dashboard.live.as_mut().filter(|_| !is_first) {
        live.heard_at = now;
    }
    if is_first {
        let link = &mut context.dashboard.link;
        let was_lost = link.failures > 0;
        (link.failures, link.refusal) = (0, None);
        if was_lost {
            resync(context);
        }
    }
    match *message {
        ServerMessage::CreditUpdate(update) if is_first => {
            balance::first_on_socket(context, update);
            command::confirmed(context);
        }
        ServerMessage::CreditUpdate(update) => balance::pushed(context, update),
        ServerMessage::SessionStarted { session_id, .. } => {
            // The facts for the countdown come with a balance; where none has come yet, ask for one.
            if context
                .dashboard
                .session()
                .map(|session| session.session_id)
                != Some(session_id)
            {
                context.call(Call::Active);
            }
            history::reload(context);
        }
        ServerMessage::SessionStopped {
            session_id,
            reason,
            ended_at,
            credits_consumed,
            final_credits,
        } => {
            let facts = balance::EndFacts {
                session_id,
                reason,
                ended_at,
                consumed: credits_consumed,
            };
            balance::ended(context, facts, Some(final_credits));
            command::ended(context);
        }
        ServerMessage::BalanceLow { .. } => balance::called_low(context),
        ServerMessage::CreditsAdded { amount, .. } => balance::added(context, amount),
        // A type that this page doesn't know.
        _ => {}
    }
}

/// Handles the end of a socket.
pub(super) fn closed(
    context: &mut Context,
    number: SocketNumber,
    code: u16,
    reason: String,
) -> GoesOn {
    if number != context.dashboard.link.socket {
        return GoesOn::Yes;
    }
    if !CloseCode::should_reconnect(code) {
        return GoesOn::No;
    }
    let is_refused = code == CloseCode::TryLater.number();
    context.dashboard.link.refusal = (is_refused && !reason.is_empty()).then_some(reason);
    if code == CloseCode::TooSlow.number() && context.dashboard.is_live() {
        connect_anew(context);
    } else if is_refused {
        wait(context, WAIT_BUSY);
        // The server is there and only wants no connection, so the balance comes by another way.
        context.call(Call::Active);
    } else {
        wait(context, WAIT_FIRST);
    }
    GoesOn::Yes
}

/// Does what is due.
pub(super) fn tick(context: &mut Context) {
    let now = context.moment.now;
    match context.dashboard.link.phase {
        LinkPhase::Waiting { until } if until <= now => connect(context),
        LinkPhase::Connecting { since } if now.since(since) >= CONNECT_WITHIN => {
            context.effects.push(Effect::Disconnect);
            wait(context, WAIT_FIRST);
        }
        LinkPhase::Live { heard_at } if now.since(heard_at) >= SILENCE_MAX => {
            connect_anew(context);
        }
        _ => {}
    }
}

/// Connects without waiting any longer.
pub(super) fn reconnect_now(context: &mut Context) {
    if matches!(context.dashboard.link.phase, LinkPhase::Waiting { .. }) {
        connect(context);
    }
}

/// The browser found or lost the network. That it lost it is no proof: the server may be on this
/// machine. So what works is left alone.
pub(super) fn network_changed(context: &mut Context, network: Network) {
    if network == Network::Online {
        reconnect_now(context);
        refresh(context);
    }
}

/// The page can be seen again, perhaps after a long sleep.
pub(super) fn shown(context: &mut Context) {
    reconnect_now(context);
    refresh(context);
}

/// The browser goes elsewhere. A page that it keeps would keep its connection too, which takes one of those
/// that the user may have, and shows nobody anything.
pub(super) fn left(context: &mut Context) {
    context.effects.push(Effect::Disconnect);
    wait(context, WAIT_FIRST);
}

/// Asks for the balance over HTTP, where a socket that looks alive may have died unnoticed.
fn refresh(context: &mut Context) {
    if context.dashboard.is_live() {
        context.call(Call::Active);
    }
}

/// Opens another socket in place of one that is of no use any more.
fn connect_anew(context: &mut Context) {
    break_line(context.dashboard);
    context.dashboard.link.failures = 1;
    connect(context);
}

/// Ends the line of balances where the server was heard last. What the balance is from there on until
/// the next message isn't known.
pub(super) fn break_line(dashboard: &mut Dashboard) {
    if let Some(live) = dashboard.live {
        dashboard.spark.break_off(live.clock.at(live.heard_at));
    }
}

fn connect(context: &mut Context) {
    let link = &mut context.dashboard.link;
    link.socket = link.socket.next();
    link.phase = LinkPhase::Connecting {
        since: context.moment.now,
    };
    context.effects.push(Effect::Connect(
        link.socket,
        context.dashboard.token.clone(),
    ));
}

/// Plans the next attempt: the first within `first`, each further one twice as late, by chance up to
/// half as early.
fn wait(context: &mut Context, first: Millis) {
    break_line(context.dashboard);
    let link = &mut context.dashboard.link;
    let doubled = first.get().saturating_mul(1 << link.failures.min(10));
    let wait = context
        .moment
        .jittered(Millis::new(doubled).unwrap_or(WAIT_MAX).min(WAIT_MAX));
    link.failures = link.failures.saturating_add(1);
    // What the old socket still says is void.
    link.socket = link.socket.next();
    link.phase = LinkPhase::Waiting {
        until: context.moment.now.after(wait),
    };
}

/// Catches up with what was missed. The balance comes by itself.
fn resync(context: &mut Context) {
    context.notices.clear_complaints();
    if context.dashboard.email.is_none() {
        context.call(Call::WhoAmI);
    }
    history::reload(context);
}
