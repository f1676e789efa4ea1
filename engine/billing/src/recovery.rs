//! Rebuilding a wallet from recorded facts after its node was down, or its actor failed.
//!
//! Time is replayed run by run: while a run of the node lasted the sessions were served, between two
//! runs they stood still. So a session whose credits ran out before the crash ends at that very
//! instant, even if nobody came to write it down.

use schema::{Credits, SessionId, UnixMillis, UserId, session::EndReason};

use crate::{Checkpoint, Meter, Session, Settled, SlotNumber, Span, Tariff, Wallet, WalletVersion};

/// A live session as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedSession {
    /// Its id.
    pub id: SessionId,
    /// Its slot.
    pub slot: SlotNumber,
    /// Its tariff.
    pub tariff: Tariff,
    /// When it started.
    pub started_at: UnixMillis,
    /// What of its charge is in the ledger.
    pub settled: Settled,
    /// Its last settlement's instant and served time, or its start.
    pub checkpoint: Checkpoint,
    /// Its pauses since the checkpoint, none overlapping another; one that is not over ends at
    /// [`UnixMillis::MAX`].
    pub pauses: Vec<Span>,
}

/// What becomes of the sessions that are still live after the last of the earlier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterCut {
    /// They go on from this instant.
    ResumeAt(UnixMillis),
    /// They end at the instant their node was last alive.
    End,
}

/// What a meter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MeterTurn {
    /// It stands still.
    Off,
    /// It runs.
    On,
}

/// A point at which a session's meter changes: it runs from here, or stands still.
struct Change {
    at: UnixMillis,
    session: SessionId,
    meter: MeterTurn,
}

impl Wallet {
    /// The wallet as it stands after `runs`, its node's earlier runs, each from its start to its last
    /// `alive_at`, in order and not overlapping; then `after_cut` decides. What became of sessions is
    /// decided, not recorded: see [`Wallet::settlement_due`].
    pub fn recovered(
        user: UserId,
        version: WalletVersion,
        ledger_balance: Credits,
        recorded: &[RecordedSession],
        runs: &[Span],
        after_cut: AfterCut,
    ) -> Self {
        let sessions = recorded.iter().map(stopped_at_checkpoint).collect();
        let mut wallet = Self::new(user, version, ledger_balance, UnixMillis::EPOCH, sessions);

        let mut changes: Vec<Change> = recorded
            .iter()
            .flat_map(|session| changes_of(session, runs))
            .collect();
        if let AfterCut::ResumeAt(resumed_at) = after_cut {
            let on = Span {
                from: resumed_at,
                to: UnixMillis::MAX,
            };
            changes.extend(
                recorded
                    .iter()
                    .flat_map(|session| changes_of(session, &[on])),
            );
        }
        // A meter that stops and one that starts at the same instant: what stops comes first.
        changes.sort_by_key(|change| (change.at, change.meter));
        for change in changes.iter().filter(|change| change.at < UnixMillis::MAX) {
            wallet.advance(change.at);
            wallet.turn_meter(change.session, change.at, change.meter);
        }
        if after_cut == AfterCut::End {
            let cut = runs.last().map_or(UnixMillis::EPOCH, |run| run.to);
            for session in recorded {
                // A settlement can be recorded a moment before the node is recorded to be alive.
                let at = cut.max(session.checkpoint.at);
                let _end = wallet.stop(at, session.id, EndReason::Engine);
            }
        }
        wallet
    }
}

/// The session as its checkpoint has it, not being served.
fn stopped_at_checkpoint(recorded: &RecordedSession) -> Session {
    let mut meter = Meter::running(recorded.checkpoint.served, recorded.checkpoint.at);
    meter.pause(recorded.checkpoint.at);
    Session {
        id: recorded.id,
        slot: recorded.slot,
        tariff: recorded.tariff,
        started_at: recorded.started_at,
        meter,
        settled: recorded.settled,
        end: None,
        is_recorded: true,
    }
}

/// When the session's meter ran during `runs`: since its checkpoint, and not during its pauses.
fn changes_of(session: &RecordedSession, runs: &[Span]) -> Vec<Change> {
    let mut changes = Vec::new();
    for run in runs {
        let mut from = run.from.max(session.checkpoint.at);
        let mut served = |span: Span| {
            if span.from < span.to {
                changes.push(Change {
                    at: span.from,
                    session: session.id,
                    meter: MeterTurn::On,
                });
                changes.push(Change {
                    at: span.to,
                    session: session.id,
                    meter: MeterTurn::Off,
                });
            }
        };
        for pause in session
            .pauses
            .iter()
            .filter(|pause| pause.to > session.checkpoint.at && pause.from < run.to)
        {
            served(Span {
                from,
                to: pause.from,
            });
            from = from.max(pause.to);
        }
        served(Span { from, to: run.to });
    }
    changes
}

#[cfg(test)]
mod tests {
    use schema::Millis;

    use super::*;
    use crate::ChargedAt;

    fn ms(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    fn span(from: i64, to: i64) -> Span {
        Span {
            from: ms(from),
            to: ms(to),
        }
    }

    fn recovered(
        credits: i64,
        start: i64,
        runs: &[Span],
        after_cut: AfterCut,
    ) -> (Wallet, SessionId) {
        let id = SessionId::new(1).unwrap();
        let session = RecordedSession {
            id,
            slot: SlotNumber::default(),
            tariff: Tariff::new(
                Credits::new(1).unwrap(),
                Millis::new(6_000).unwrap(),
                ChargedAt::End,
            )
            .unwrap(),
            started_at: ms(start),
            settled: Settled::default(),
            checkpoint: Checkpoint {
                at: ms(start),
                served: Millis::ZERO,
            },
            pauses: Vec::new(),
        };
        let credits = Credits::new(credits).unwrap();
        let user = UserId::new(1).unwrap();
        (
            Wallet::recovered(
                user,
                WalletVersion::default(),
                credits,
                &[session],
                runs,
                after_cut,
            ),
            id,
        )
    }

    /// Law 8's worked examples. Times in ms, 6 s intervals.
    #[test]
    fn downtime_is_free() {
        let check = |what: &str, start: i64, alive: i64, stop: i64, served: i64, consumed: i64| {
            let (mut wallet, id) =
                recovered(100, start, &[span(0, alive)], AfterCut::ResumeAt(ms(8_900)));
            let end = wallet.stop(ms(stop), id, EndReason::User).unwrap();
            assert_eq!(
                (end.served.get(), end.consumed.get(), end.at.get()),
                (served, consumed, stop),
                "{what}"
            );
        };
        check(
            "alive 5.0, killed 5.9, back 8.9, stopped 9.9",
            0,
            5_000,
            9_900,
            6_000,
            1,
        );
        check("the same with alive 4.9", 0, 4_900, 9_900, 5_900, 0);
        check(
            "start 5.4 after alive 5.0: nothing before the restart",
            5_400,
            5_000,
            8_900,
            0,
            0,
        );
    }

    #[test]
    fn sessions_that_are_not_resumed_end_at_the_cut() {
        let check = |start: i64, alive: i64, ended_at: i64, consumed: i64| {
            let (wallet, id) = recovered(100, start, &[span(0, alive)], AfterCut::End);
            let end = wallet.session(id).unwrap().end.unwrap();
            assert_eq!(
                (end.at.get(), end.consumed.get(), end.reason),
                (ended_at, consumed, EndReason::Engine)
            );
        };
        check(0, 5_000, 5_000, 0);
        check(0, 6_000, 6_000, 1);
        check(5_400, 5_000, 5_400, 0);
    }

    #[test]
    fn no_session_ends_before_its_last_settlement() {
        let id = SessionId::new(1).unwrap();
        let checkpoint = Checkpoint {
            at: ms(900_000),
            served: Millis::new(900_000).unwrap(),
        };
        let session = RecordedSession {
            id,
            slot: SlotNumber::default(),
            tariff: Tariff::new(
                Credits::new(1).unwrap(),
                Millis::new(6_000).unwrap(),
                ChargedAt::End,
            )
            .unwrap(),
            started_at: ms(0),
            settled: Settled {
                seq: 1,
                total: Credits::new(150).unwrap(),
            },
            checkpoint,
            pauses: Vec::new(),
        };
        let wallet = Wallet::recovered(
            UserId::new(1).unwrap(),
            WalletVersion::default(),
            Credits::new(50).unwrap(),
            &[session],
            &[span(0, 899_500)],
            AfterCut::End,
        );
        let end = wallet.session(id).unwrap().end.unwrap();
        assert_eq!((end.at, end.served), (checkpoint.at, checkpoint.served));
        assert_eq!(end.consumed.get(), 150);
    }

    #[test]
    fn a_depletion_that_nobody_wrote_down_keeps_its_instant() {
        let resumed = AfterCut::ResumeAt(ms(90_000));
        let (wallet, id) = recovered(2, 500, &[span(0, 20_000), span(30_000, 40_000)], resumed);
        let end = wallet.session(id).unwrap().end.unwrap();
        assert_eq!(
            (end.at.get(), end.consumed.get(), end.reason),
            (12_500, 2, EndReason::Depleted)
        );
    }

    #[test]
    fn pauses_and_earlier_runs_are_replayed() {
        let id = SessionId::new(1).unwrap();
        let session = RecordedSession {
            id,
            slot: SlotNumber::default(),
            tariff: Tariff::new(
                Credits::new(1).unwrap(),
                Millis::new(1_000).unwrap(),
                ChargedAt::End,
            )
            .unwrap(),
            started_at: ms(0),
            settled: Settled {
                seq: 1,
                total: Credits::new(3).unwrap(),
            },
            checkpoint: Checkpoint {
                at: ms(4_000),
                served: ms(3_000).since(ms(0)),
            },
            pauses: vec![span(5_000, 22_000)],
        };
        let runs = [span(0, 10_000), span(20_000, 24_500)];
        let mut wallet = Wallet::recovered(
            UserId::new(1).unwrap(),
            WalletVersion::default(),
            Credits::new(50).unwrap(),
            &[session],
            &runs,
            AfterCut::ResumeAt(ms(30_000)),
        );
        wallet.advance(ms(30_500));
        let served = wallet.session(id).unwrap().meter.served(ms(30_500));
        assert_eq!(served.get(), 3_000 + 1_000 + 2_500 + 500);
        assert_eq!(wallet.balance().get(), 50 - (7 - 3));
    }
}
