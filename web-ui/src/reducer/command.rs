//! Starting and stopping a session.
//!
//! A command has one key, however often it is sent, so a second sending does nothing twice. Where
//! its outcome stays unknown it is sent again, never a new one in its place.

use schema::{
    ErrorCode, Millis,
    session::{SessionStarted, SessionStopped},
};

use super::{Context, balance, history};
use crate::{
    api::{Call, Failure, IdempotencyKey},
    model::{Pending, PendingPhase, Verb},
    notice::{RetriedBy, Retry},
};

/// How often a command is sent before the page gives up.
const SENDS_MAX: u32 = 5;

/// The wait before a command is sent again, where the server names none.
const RETRY_AFTER: Millis = match Millis::new(2_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// The user wants a session.
pub(super) fn start(context: &mut Context) {
    let Some(live) = context.dashboard.live else {
        return;
    };
    if live.balance.session.is_none() && !live.balance.credits.is_zero() {
        give(context, Verb::Start);
    }
}

/// The user wants the session to stop.
pub(super) fn stop(context: &mut Context) {
    if context.dashboard.session().is_some() {
        give(context, Verb::Stop);
    }
}

/// Sends again what is due.
pub(super) fn tick(context: &mut Context) {
    if let Some(pending) = context.dashboard.pending
        && let PendingPhase::Unknown { retry_at } = pending.phase
        && retry_at <= context.moment.now
    {
        send(context, pending);
    }
}

/// The server has started the session.
pub(super) fn started(context: &mut Context, started: &SessionStarted) {
    context.notices.clear_complaints();
    let is_shown = context
        .dashboard
        .session()
        .map(|session| session.session_id)
        == Some(started.session_id);
    let is_over = context.dashboard.last_end.map(|end| end.session_id) == Some(started.session_id);
    if is_shown || is_over {
        context.dashboard.pending = None;
        return;
    }
    if let Some(pending) = &mut context.dashboard.pending {
        pending.phase = PendingPhase::Done;
    }
    context.call(Call::Active);
}

/// The server has stopped the session.
pub(super) fn stopped(context: &mut Context, stopped: &SessionStopped) {
    context.dashboard.pending = None;
    context.notices.clear_complaints();
    let facts = balance::EndFacts {
        session_id: stopped.session_id,
        reason: stopped.reason,
        ended_at: stopped.ended_at,
        consumed: stopped.credits_consumed,
    };
    balance::ended(context, facts, Some(stopped.final_credits));
}

/// The balance was asked for after a command and has come: there is nothing left to wait for, and the
/// screen shows what became of a command that was given up.
pub(super) fn confirmed(context: &mut Context) {
    unconfirmed(context);
    if context.dashboard.pending.is_none() {
        end_doubt(context);
    }
}

/// The balance was asked for after a command and won't come: there is nothing left to wait for.
pub(super) fn unconfirmed(context: &mut Context) {
    if context
        .dashboard
        .pending
        .is_some_and(|pending| pending.phase == PendingPhase::Done)
    {
        context.dashboard.pending = None;
    }
}

/// A session has begun to be shown. A start whose answer is known or was lost has done its work.
pub(super) fn confirmed_by_session(context: &mut Context) {
    let answers_start = |pending: Pending| {
        pending.verb == Verb::Start && !matches!(pending.phase, PendingPhase::Sent)
    };
    if context.dashboard.pending.is_some_and(answers_start) {
        context.dashboard.pending = None;
        context.notices.clear_complaints();
    }
}

/// The session is over, which is what a stop wanted, whatever becomes of its own answer.
pub(super) fn ended(context: &mut Context) {
    if context
        .dashboard
        .pending
        .is_some_and(|pending| pending.verb == Verb::Stop)
    {
        context.dashboard.pending = None;
    }
}

/// The command with this key was refused, or its outcome is unknown.
pub(super) fn failed(context: &mut Context, key: IdempotencyKey, failure: &Failure) {
    let Some(pending) = context
        .dashboard
        .pending
        .filter(|pending| pending.key == key)
    else {
        return;
    };
    if failure.is_unknown() {
        return unknown(context, pending, failure);
    }
    context.dashboard.pending = None;
    match (pending.verb, failure.code()) {
        // Another tab was quicker, or the credits were.
        (Verb::Start, Some(ErrorCode::SessionActive)) => {
            context
                .notices
                .tell("The session runs already.".to_owned(), context.moment.now);
        }
        (Verb::Stop, Some(ErrorCode::NoActiveSession)) => {
            context.notices.tell(
                "The session is over already.".to_owned(),
                context.moment.now,
            );
        }
        (Verb::Start, _) => {
            context.complain("The session did not start.", failure);
        }
        (Verb::Stop, _) => {
            context.complain("The session did not stop.", failure);
        }
    }
    context.call(Call::Active);
    history::reload(context);
}

fn unknown(context: &mut Context, mut pending: Pending, failure: &Failure) {
    let done = match pending.verb {
        Verb::Start => "started",
        Verb::Stop => "stopped",
    };
    pending.unknowns += 1;
    end_doubt(context);
    context.call(Call::Active);
    if pending.unknowns >= SENDS_MAX {
        context.dashboard.pending = None;
        let what = format!(
            "It is not known whether the session {done}; the page shows it once it is connected."
        );
        context.dashboard.doubt = Some(context.complain(&what, failure));
        return history::reload(context);
    }
    let wait = failure.retry_after().unwrap_or(RETRY_AFTER);
    let retry_at = context.moment.now.after(wait);
    pending.phase = PendingPhase::Unknown { retry_at };
    context.dashboard.pending = Some(pending);
    let text = format!(
        "It is not known yet whether the session {done}. {}",
        failure.sentence()
    );
    let retry = Retry {
        at: retry_at,
        by: RetriedBy::Page,
    };
    context.dashboard.doubt = Some(context.notices.complain(text, Some(retry)));
}

/// Takes away what was said of an unknown outcome. Two such sentences would contradict each other.
fn end_doubt(context: &mut Context) {
    if let Some(number) = context.dashboard.doubt.take() {
        context.notices.dismiss(number);
    }
}

fn give(context: &mut Context, verb: Verb) {
    if context.dashboard.pending.is_some() {
        return;
    }
    context.notices.clear();
    context.dashboard.is_end_card_up = false;
    let key = IdempotencyKey::new(context.moment.entropy);
    send(
        context,
        Pending {
            verb,
            key,
            unknowns: 0,
            phase: PendingPhase::Sent,
        },
    );
}

fn send(context: &mut Context, pending: Pending) {
    context.dashboard.pending = Some(Pending {
        phase: PendingPhase::Sent,
        ..pending
    });
    context.call(match pending.verb {
        Verb::Start => Call::Start(pending.key),
        Verb::Stop => Call::Stop(pending.key),
    });
}
