//! The connection: opening it, listening, and coming back after it broke.

use schema::{
    Millis,
    websocket::{CloseCode, ServerMessage},
};

use super::{Context, GoesOn, balance, command, history};
use crate::{
    action::{Effect, Network},
    api::Call,
    model::{LinkPhase, SocketNumber},
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
/// How late a charge's message may be before the socket counts as dead. A browser doesn't tell of a
/// connection that broke without a word.
const SILENCE_MAX: Millis = millis(10_000);

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
    link.phase = LinkPhase::Live {
        heard_at: context.moment.now,
    };
    if is_first {
        let was_lost = link.failures > 0;
        link.failures = 0;
        if was_lost {
            resync(context);
        }
    }
    match *message {
        ServerMessage::CreditUpdate(update) if is_first => {
            balance::first_on_socket(context, update);
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
pub(super) fn closed(context: &mut Context, number: SocketNumber, code: u16) -> GoesOn {
    if number != context.dashboard.link.socket {
        return GoesOn::Yes;
    }
    if !CloseCode::should_reconnect(code) {
        return GoesOn::No;
    }
    if code == CloseCode::TooSlow.number() && context.dashboard.is_live() {
        context.dashboard.link.failures = 1;
        connect(context);
    } else {
        wait(
            context,
            if code == CloseCode::TryLater.number() {
                WAIT_BUSY
            } else {
                WAIT_FIRST
            },
        );
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
        LinkPhase::Live { heard_at } if is_dead(context, now.since(heard_at)) => {
            context.dashboard.link.failures = 1;
            connect(context);
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

/// Asks for the balance over HTTP, where a socket that looks alive may have died unnoticed.
fn refresh(context: &mut Context) {
    if context.dashboard.is_live() {
        context.call(Call::Active);
    }
}

/// Whether a live socket must have died, since `silence` began. Only a running session makes the
/// server speak regularly.
fn is_dead(context: &Context, silence: Millis) -> bool {
    let Some(session) = context.dashboard.session() else {
        return false;
    };
    session.next_charge_at.is_some() && silence > session.interval_ms.saturating_add(SILENCE_MAX)
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
