//! The lists of sessions and of the wallet's movements.

use super::{Context, balance};
use crate::{
    api::{Answer, Call, Failure},
    feed::{Ask, FeedStatus},
    model::{SessionEnd, Tab},
};

/// Asks for the newest rows of the lists: the sessions always, the movements once somebody has
/// opened them.
pub(super) fn reload(context: &mut Context) {
    let ask = context.dashboard.sessions.reload();
    context.call(Call::Sessions(ask));
    if *context.dashboard.ledger.status() != FeedStatus::Unasked {
        let ask = context.dashboard.ledger.reload();
        context.call(Call::Ledger(ask));
    }
}

/// Opens a list.
pub(super) fn choose(context: &mut Context, tab: Tab) {
    context.dashboard.tab = tab;
    if tab == Tab::Wallet && *context.dashboard.ledger.status() == FeedStatus::Unasked {
        retry(context);
    }
}

/// Asks for older rows of the open list.
pub(super) fn more(context: &mut Context) {
    let call = match context.dashboard.tab {
        Tab::Sessions => context.dashboard.sessions.more().map(Call::Sessions),
        Tab::Wallet => context.dashboard.ledger.more().map(Call::Ledger),
    };
    if let Some(call) = call {
        context.call(call);
    }
}

/// Asks for the open list again.
pub(super) fn retry(context: &mut Context) {
    let call = match context.dashboard.tab {
        Tab::Sessions => Call::Sessions(context.dashboard.sessions.reload()),
        Tab::Wallet => Call::Ledger(context.dashboard.ledger.reload()),
    };
    context.call(call);
}

/// Takes rows of the list of sessions.
pub(super) fn sessions_answered(context: &mut Context, ask: &Ask, answer: Result<Answer, Failure>) {
    match answer {
        Ok(Answer::Sessions(page)) => {
            context.dashboard.sessions.arrived(ask.number, page);
            explain_end(context);
        }
        Ok(_) => {}
        Err(failure) => context
            .dashboard
            .sessions
            .failed(ask.number, failure.sentence()),
    }
}

/// Takes rows of the list of movements.
pub(super) fn ledger_answered(context: &mut Context, ask: &Ask, answer: Result<Answer, Failure>) {
    match answer {
        Ok(Answer::Ledger(page)) => context.dashboard.ledger.arrived(ask.number, page),
        Ok(_) => {}
        Err(failure) => context
            .dashboard
            .ledger
            .failed(ask.number, failure.sentence()),
    }
}

/// Looks up how a session ended that was over when the connection came back, and for how long the
/// last one was served.
fn explain_end(context: &mut Context) {
    let unexplained = context
        .dashboard
        .unexplained
        .map(|session| session.session_id);
    let last = context.dashboard.last_end.map(|end| end.session_id);
    let rows = context.dashboard.sessions.rows().iter();
    let told = rows.filter(|row| [unexplained, last].contains(&Some(row.session_id)));
    let ends: Vec<SessionEnd> = told.filter_map(SessionEnd::of).collect();
    for end in ends {
        balance::show_end(context, end);
    }
}
