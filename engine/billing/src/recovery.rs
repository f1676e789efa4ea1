//! Rebuilding a wallet from recorded facts after its node was down, or its actor failed.
//!
//! Time is replayed run by run: while a run of the node lasted the sessions were served, between two
//! runs they stood still. So a session whose credits ran out before the crash ends at that very
//! instant, even if nobody came to write it down.

use std::cmp::Reverse;

use schema::{Credits, SessionId, UnixMillis, UserId, session::EndReason};

use crate::{
    BalanceChange, Checkpoint, Meter, Session, Settled, SlotNumber, Span, Tariff, Wallet,
    WalletVersion,
};

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

/// What a meter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MeterTurn {
    /// It stands still.
    Off,
    /// It runs.
    On,
}

/// A run of the node that serves a session: it is served from `from` to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// When the run began.
    pub from: UnixMillis,
    /// Its last `alive_at`; [`UnixMillis::MAX`] for the run that lasts.
    pub to: UnixMillis,
    /// What it did with the sessions that it found live.
    pub takeover: Takeover,
}

/// What a run does with the sessions that the one before it left live. It is a recorded fact like the
/// run itself: a replay comes out the same whatever the settings say by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// They go on; the time between the two runs is free.
    Resume,
    /// They ended at the instant that the run before was last alive.
    End,
}

/// What happens in a replay. At one instant in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// The balance changes by so many credits: what comes in before what goes out, as that may have
    /// been taken from it.
    Balance(Reverse<i64>),
    /// The session's meter stands still.
    Off(SessionId),
    /// The session ends, by the engine.
    End(SessionId),
    /// The session's meter runs.
    On(SessionId),
}

/// A point at which something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: UnixMillis,
    turn: Turn,
}

impl Wallet {
    /// The wallet as it stands in the last of `runs`: all of its node's that could have served it, in
    /// order and not overlapping. `changes` are those of the balance by others since the last
    /// settlement of any session, or the start of a recorded one: the ledger's balance has them, and
    /// they count from their own instants. What became of sessions is decided, not recorded: see
    /// [`Wallet::settlement_due`].
    ///
    /// `now` is the latest instant that the runs prove. Nothing counts from a later one: a change that
    /// was written by a clock that is ahead counts from `now`, as it does in [`Wallet::rebase`].
    pub fn recovered(
        user: UserId,
        version: WalletVersion,
        ledger_balance: Credits,
        recorded: &[RecordedSession],
        changes: &[BalanceChange],
        runs: &[Run],
        now: UnixMillis,
    ) -> Self {
        let sessions = recorded.iter().map(stopped_at_checkpoint).collect();
        let mut wallet = Self::new(user, version, ledger_balance, UnixMillis::EPOCH, sessions);

        let mut events: Vec<Event> = recorded
            .iter()
            .flat_map(|session| events_of(session, runs))
            .collect();
        for BalanceChange { at, amount } in changes {
            // Before it, the balance was without it.
            wallet.change_balance(-amount.get());
            let (at, turn) = ((*at).min(now), Turn::Balance(Reverse(amount.get())));
            events.push(Event { at, turn });
        }
        events.sort_unstable();
        for Event { at, turn } in events
            .into_iter()
            .filter(|event| event.at < UnixMillis::MAX)
        {
            match turn {
                Turn::Balance(Reverse(amount)) => wallet.change_balance_at(at, amount),
                Turn::Off(session) => wallet.turn_meter(session, at, MeterTurn::Off),
                Turn::On(session) => wallet.turn_meter(session, at, MeterTurn::On),
                Turn::End(session) => {
                    let _end = wallet.stop(at, session, EndReason::Engine);
                }
            }
        }
        wallet
    }

    /// Lets `run` take over from the one that lasted up to `cut`, without reading anything again: what
    /// [`Wallet::recovered`] would say of this wallet. Nothing may have been decided past `cut`.
    pub fn taken_over(&mut self, cut: UnixMillis, run: &Run) {
        self.pause(cut);
        match run.takeover {
            Takeover::Resume => self.resume(run.from),
            Takeover::End => {
                let live = self.sessions().iter().filter(|session| session.is_live());
                let live: Vec<SessionId> = live.map(|session| session.id).collect();
                for session in live {
                    let _end = self.stop(cut, session, EndReason::Engine);
                }
                self.advance(run.from);
            }
        }
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

/// What happens to the session in `runs`: its meter runs since its checkpoint, while a run lasts and
/// the session is not paused; and it ends where a run did not take it over.
fn events_of(session: &RecordedSession, runs: &[Run]) -> Vec<Event> {
    let mut events = Vec::new();
    let id = session.id;
    let mut cut = UnixMillis::EPOCH;
    for run in runs {
        let mut add = |at, turn| events.push(Event { at, turn });
        // What was settled in the run was taken over by it.
        if run.takeover == Takeover::End && session.checkpoint.at < run.from {
            // A settlement can be recorded a moment before the node is recorded to be alive.
            add(cut.max(session.checkpoint.at), Turn::End(id));
        }
        let mut served = |from, to| {
            if from < to {
                add(from, Turn::On(id));
                add(to, Turn::Off(id));
            }
        };
        let mut from = run.from.max(session.checkpoint.at);
        for pause in session
            .pauses
            .iter()
            .filter(|pause| pause.to > session.checkpoint.at && pause.from < run.to)
        {
            served(from, pause.from);
            from = from.max(pause.to);
        }
        served(from, run.to);
        cut = run.to;
    }
    events
}

#[cfg(test)]
mod tests {
    use schema::{CreditsChange, Millis};

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

    fn run(from: i64, to: i64) -> Run {
        Run {
            from: ms(from),
            to: ms(to),
            takeover: Takeover::Resume,
        }
    }

    fn last(from: i64, takeover: Takeover) -> Run {
        Run {
            from: ms(from),
            to: UnixMillis::MAX,
            takeover,
        }
    }

    /// A session at 1 credit for each interval, as its start recorded it.
    fn session(interval_ms: i64, started_at: i64) -> RecordedSession {
        let (price, interval) = (Credits::new(1), Millis::new(interval_ms));
        RecordedSession {
            id: SessionId::new(1).unwrap(),
            slot: SlotNumber::default(),
            tariff: Tariff::new(price.unwrap(), interval.unwrap(), ChargedAt::End).unwrap(),
            started_at: ms(started_at),
            settled: Settled::default(),
            checkpoint: Checkpoint {
                at: ms(started_at),
                served: Millis::ZERO,
            },
            pauses: Vec::new(),
        }
    }

    fn recovered(credits: i64, start: i64, runs: &[Run]) -> (Wallet, SessionId) {
        let session = session(6_000, start);
        let id = session.id;
        let credits = Credits::new(credits).unwrap();
        let user = UserId::new(1).unwrap();
        (
            Wallet::recovered(
                user,
                WalletVersion::default(),
                credits,
                &[session],
                &[],
                runs,
                UnixMillis::MAX,
            ),
            id,
        )
    }

    /// Law 8's worked examples. Times in ms, 6 s intervals.
    #[test]
    fn downtime_is_free() {
        let check = |what: &str, start: i64, alive: i64, stop: i64, served: i64, consumed: i64| {
            let runs = [run(0, alive), last(8_900, Takeover::Resume)];
            let (mut wallet, id) = recovered(100, start, &runs);
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
            let runs = [run(0, alive), last(8_900, Takeover::End)];
            let (wallet, id) = recovered(100, start, &runs);
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
            settled: Settled {
                seq: 1,
                total: Credits::new(150).unwrap(),
            },
            checkpoint,
            ..session(6_000, 0)
        };
        let wallet = Wallet::recovered(
            UserId::new(1).unwrap(),
            WalletVersion::default(),
            Credits::new(50).unwrap(),
            &[session],
            &[],
            &[run(0, 899_500), last(910_000, Takeover::End)],
            ms(910_000),
        );
        let end = wallet.session(id).unwrap().end.unwrap();
        assert_eq!((end.at, end.served), (checkpoint.at, checkpoint.served));
        assert_eq!(end.consumed.get(), 150);
    }

    #[test]
    fn a_depletion_that_nobody_wrote_down_keeps_its_instant() {
        let resumed = last(90_000, Takeover::Resume);
        let (wallet, id) = recovered(2, 500, &[run(0, 20_000), run(30_000, 40_000), resumed]);
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
            settled: Settled {
                seq: 1,
                total: Credits::new(3).unwrap(),
            },
            checkpoint: Checkpoint {
                at: ms(4_000),
                served: ms(3_000).since(ms(0)),
            },
            pauses: vec![span(5_000, 22_000)],
            ..session(1_000, 0)
        };
        let resumed = last(30_000, Takeover::Resume);
        let runs = [run(0, 10_000), run(20_000, 24_500), resumed];
        let mut wallet = Wallet::recovered(
            UserId::new(1).unwrap(),
            WalletVersion::default(),
            Credits::new(50).unwrap(),
            &[session],
            &[],
            &runs,
            ms(30_000),
        );
        wallet.advance(ms(30_500));
        let served = wallet.session(id).unwrap().meter.served(ms(30_500));
        assert_eq!(served.get(), 3_000 + 1_000 + 2_500 + 500);
        assert_eq!(wallet.balance().get(), 50 - (7 - 3));
    }

    #[test]
    fn an_end_at_an_earlier_cut_stays() {
        let ended = last(20_000, Takeover::End);
        let runs = [
            run(0, 5_000),
            Run {
                to: ms(26_500),
                ..ended
            },
            last(30_000, Takeover::Resume),
        ];
        let check = |start: i64, ended_at: Option<i64>| {
            let (mut wallet, id) = recovered(100, start, &runs);
            wallet.advance(ms(40_000));
            let end = wallet.session(id).unwrap().end;
            assert_eq!(end.map(|end| end.at.get()), ended_at, "started at {start}");
        };
        check(1_000, Some(5_000));
        check(5_400, Some(5_400));
        check(20_000, None);
    }

    /// The same facts, once replayed from the start and once taken over in place.
    #[test]
    fn a_run_in_place_is_a_recovery_by_another_name() {
        for takeover in [Takeover::Resume, Takeover::End] {
            for (credits, cut) in [(100, 7_300), (100, 12_000), (1, 7_300), (2, 30_000)] {
                let next = last(90_000, takeover);
                let (mut in_place, id) = recovered(credits, 500, &[last(0, Takeover::Resume)]);
                in_place.advance(ms(cut));
                in_place.taken_over(ms(cut), &next);
                let (mut replayed, _) = recovered(credits, 500, &[run(0, cut), next]);
                for wallet in [&mut in_place, &mut replayed] {
                    wallet.advance(ms(200_000));
                }
                assert_eq!(in_place.settlement_due(), replayed.settlement_due());
                assert_eq!(
                    in_place.session(id).unwrap().meter.served(ms(200_000)),
                    replayed.session(id).unwrap().meter.served(ms(200_000)),
                    "{takeover:?} {credits} {cut}"
                );
            }
        }
    }

    /// Credits that came after the credits had run out don't undo the end that nobody wrote down.
    #[test]
    fn a_change_counts_from_its_own_instant() {
        let check = |changed_at: i64, amount: i64, ended_at: i64, consumed: i64| {
            let session = session(1_000, 0);
            let id = session.id;
            let change = BalanceChange {
                at: ms(changed_at),
                amount: CreditsChange::try_from(amount).unwrap(),
            };
            let wallet = Wallet::recovered(
                UserId::new(1).unwrap(),
                WalletVersion::default(),
                Credits::new(10 + amount).unwrap(),
                &[session],
                &[change],
                &[run(0, 30_000), last(60_000, Takeover::Resume)],
                ms(60_000),
            );
            let end = wallet.session(id).unwrap().end.unwrap();
            assert_eq!(
                (end.at.get(), end.consumed.get(), end.reason),
                (ended_at, consumed, EndReason::Depleted),
                "{amount} at {changed_at}"
            );
            assert_eq!(wallet.balance().get(), 10 + amount - consumed);
        };
        check(9_999, 5, 15_000, 15);
        check(10_000, 5, 15_000, 15);
        check(10_001, 5, 10_000, 10);
        check(40_000, 5, 10_000, 10);
        check(3_500, -4, 6_000, 6);
    }
}
