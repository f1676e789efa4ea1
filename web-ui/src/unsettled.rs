//! What a live session has cost since the ledger was last told.

use schema::{
    Credits,
    ledger::{EntryKind, LedgerEntry},
    session::ActiveSession,
};

use crate::feed::Feed;

/// The part of `session`'s cost that is not among the movements in `ledger`.
///
/// It follows from the session's own movements and not from the balance, which an operator moves too. Where
/// the loaded pages don't go back to the session's start, the older ones of its settlements are missing, and
/// this is more than is unsettled by those.
pub fn cost(session: &ActiveSession, ledger: &Feed<LedgerEntry>) -> Credits {
    let own = ledger.rows().iter().filter(|entry| {
        entry.kind == EntryKind::Usage && entry.session_id == Some(session.session_id)
    });
    let settled: i64 = own.map(|entry| -entry.amount.get()).sum();
    Credits::new(session.consumed.get() - settled).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use schema::{CreditsChange, EntryId, Millis, SessionId, UnixMillis};

    use super::*;
    use crate::feed::Page;

    fn amount(credits: i64) -> Credits {
        Credits::new(credits).unwrap()
    }

    /// Session 1, which has cost `consumed`.
    fn session(consumed: i64) -> ActiveSession {
        ActiveSession {
            session_id: SessionId::new(1).unwrap(),
            started_at: UnixMillis::EPOCH,
            consumed: amount(consumed),
            credits_per_interval: amount(1),
            interval_ms: Millis::new(6_000).unwrap(),
            next_charge_at: None,
            depletes_at: None,
        }
    }

    #[test]
    fn only_the_sessions_own_movements_count() {
        let usage = |session: i64, settled: i64| {
            (
                EntryKind::Usage,
                Some(session),
                CreditsChange::outgoing(amount(settled)),
            )
        };
        let revoke = (
            EntryKind::Revoke,
            None,
            CreditsChange::outgoing(amount(200)),
        );
        let grant = (EntryKind::Grant, None, CreditsChange::incoming(amount(50)));
        let check = |consumed: i64,
                     movements: &[(EntryKind, Option<i64>, CreditsChange)],
                     expected: i64| {
            let entries = movements
                .iter()
                .zip(1..)
                .map(|((kind, session, amount), id)| LedgerEntry {
                    entry_id: EntryId::new(id).unwrap(),
                    at: UnixMillis::EPOCH,
                    kind: *kind,
                    amount: *amount,
                    balance_after: Credits::ZERO,
                    session_id: session.map(|id| SessionId::new(id).unwrap()),
                    reason: None,
                });
            let mut ledger = Feed::default();
            let ask = ledger.reload();
            let page = Page {
                rows: entries.collect(),
                next_cursor: None,
            };
            ledger.arrived(ask.number, page);
            assert_eq!(
                cost(&session(consumed), &ledger),
                amount(expected),
                "{movements:?}"
            );
        };
        check(4, &[], 4);
        check(4, &[revoke, grant], 4);
        check(164, &[usage(1, 150)], 14);
        check(164, &[usage(1, 10), revoke, usage(1, 150), usage(2, 70)], 4);
        // The settlement is in the list already, the balance that shows it is on its way.
        check(149, &[usage(1, 150)], 0);
    }
}
