//! What websockets said: a balance rises only by credits that came in, and ends are as recorded.

use schema::websocket::ServerMessage;

use super::{Kind, Seen, Verdict, ledger::finals, show};
use crate::{
    history::{Adjustment, Operation, Request, Stream},
    moment::Moment,
    records::UserRecords,
};

/// How much later than its acknowledgement an adjustment may show: another process made it, and the
/// server reads its notices at least once a second.
const NOTICE_MICROS: u64 = 3_000_000;

pub(super) fn check(seen: &Seen<'_>, records: &UserRecords, verdict: &mut Verdict) {
    let streams = seen.history.streams.iter();
    for stream in streams.filter(|stream| stream.user == seen.user) {
        verdict.messages += stream.messages.len() as u64;
        rises(seen, stream, verdict);
        ends(seen, stream, records, verdict);
    }
}

/// Within one connection the balance rises by no more than what came in. There are two exceptions. A
/// process that was suspended recovers in place, and takes back what it counted meanwhile. And a
/// session whose start never got an answer counts until it is ended at its start, for nothing.
fn rises(seen: &Seen<'_>, stream: &Stream, verdict: &mut Verdict) {
    let mut risen = 0;
    let mut last: Option<(Moment, i64)> = None;
    for (at, message) in &stream.messages {
        let ServerMessage::CreditUpdate(update) = message else {
            continue;
        };
        let credits = update.credits.get();
        if let Some((before, balance)) = last
            && credits > balance
            && !was_suspended(seen, before, *at)
            && !was_start_unknown(seen, before, *at)
        {
            risen += credits - balance;
            let came_in = came_in(seen, stream.opened, *at);
            if risen > came_in {
                verdict.violation(
                    Kind::Misreported,
                    seen.user,
                    format!(
                        "at {at} the balance shown rose from {balance} to {credits}, by {risen} in all since {}, \
                         and {came_in} can have come in",
                        stream.opened
                    ),
                    Vec::new(),
                );
                return;
            }
        }
        last = Some((*at, credits));
    }
}

/// What can have come into the wallet for a stream to show until `until`.
fn came_in(seen: &Seen<'_>, opened: Moment, until: Moment) -> i64 {
    let shows = |operation: &&Operation| {
        let is_begun = operation.first_sent().is_some_and(|sent| sent < until);
        let ended = operation.attempts.iter().map(|attempt| attempt.ended).max();
        let is_shown_before = ended
            .is_some_and(|ended| ended.micros().saturating_add(NOTICE_MICROS) < opened.micros());
        is_begun && !is_shown_before
    };
    seen.adjustments()
        .filter(shows)
        .map(|operation| match operation.request {
            Request::Adjust(Adjustment::Grant | Adjustment::Refund(_), amount) => amount.get(),
            _ => 0,
        })
        .sum()
}

/// Whether the server was suspended between two instants, or so shortly before that what follows
/// from it may not have shown yet.
fn was_suspended(seen: &Seen<'_>, from: Moment, to: Moment) -> bool {
    let lives = seen.history.lives.iter();
    lives.flat_map(|life| &life.suspensions).any(|suspension| {
        let shown = suspension
            .continued
            .1
            .micros()
            .saturating_add(NOTICE_MICROS);
        suspension.stopped.0 < to && shown > from.micros()
    })
}

/// Whether a start's outcome was unknown between two instants: until the next start was acknowledged,
/// and so much longer as what follows from it may take to show.
fn was_start_unknown(seen: &Seen<'_>, from: Moment, to: Moment) -> bool {
    seen.starts().flat_map(Operation::unknown).any(|unknown| {
        let acknowledged = seen.starts().filter_map(Operation::acknowledged);
        let next = acknowledged
            .filter(|(attempt, _)| attempt.sent > unknown.sent)
            .map(|(attempt, _)| attempt.ended)
            .min();
        let settled = next.unwrap_or(Moment::NEVER).max(unknown.ended);
        let shown = settled.micros().saturating_add(NOTICE_MICROS);
        unknown.sent < to && shown > from.micros()
    })
}

/// Every end that was told is the recorded one.
fn ends(seen: &Seen<'_>, stream: &Stream, records: &UserRecords, verdict: &mut Verdict) {
    for (at, message) in &stream.messages {
        let ServerMessage::SessionStopped {
            session_id,
            reason,
            ended_at,
            credits_consumed,
            final_credits,
        } = message
        else {
            continue;
        };
        let session = records
            .sessions
            .iter()
            .find(|session| session.session_id == *session_id);
        let is_right = session.is_some_and(|session| {
            (
                session.ended_at,
                session.end_reason,
                session.credits_consumed,
            ) == (Some(*ended_at), Some(*reason), *credits_consumed)
        });
        let is_right = is_right && finals(*session_id, records).contains(&final_credits.get());
        if !is_right {
            verdict.violation(
                Kind::Misreported,
                seen.user,
                format!(
                    "at {at} a websocket told an end of session {session_id} that is not recorded"
                ),
                vec![show(message), show(&session)],
            );
        }
    }
}
