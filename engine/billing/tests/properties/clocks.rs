//! Law 8 whatever the clocks of others say: what is charged was served by a run, though what others write
//! is dated by clocks that are off by up to a year.

use billing::{
    BalanceChange, ChargedAt, Checkpoint, RecordedSession, Run, Settled, SlotNumber, Takeover,
    Tariff, Wallet, WalletVersion,
};
use proptest::prelude::*;
use schema::{Credits, CreditsChange, Millis, UnixMillis, UserId};

use crate::world::id;

/// When everything happens, in ms since 1970; a year is not a long time before it.
const BEGIN: i64 = 1_700_000_000_000;
/// A year.
const YEAR_MS: i64 = 365 * 24 * 3_600_000;
/// For how long the story goes on.
const STORY_MS: i64 = 200_000;

fn at(after_ms: i64) -> UnixMillis {
    UnixMillis::new(BEGIN + after_ms).unwrap()
}

/// What was recorded, and by clocks which are off by how much.
#[derive(Clone, Debug)]
struct Recorded {
    tariffs: Vec<(i64, i64, ChargedAt)>,
    starts: Vec<i64>,
    /// The runs, by their lengths and the gaps after them.
    runs: Vec<(i64, i64)>,
    /// What others wrote: the true time, the amount, and how far the writer's clock was off.
    changes: Vec<(i64, i64, i64)>,
}

fn off_by() -> impl Strategy<Value = i64> {
    prop_oneof![
        -YEAR_MS..YEAR_MS,
        -10_000..10_000_i64,
        prop::sample::select(vec![-7_200_000, 7_200_000, 90_000, 0]),
    ]
}

fn recorded() -> impl Strategy<Value = Recorded> {
    let charged_at = prop_oneof![Just(ChargedAt::End), Just(ChargedAt::Start)];
    let tariff = (1..4_i64, 100..9_000_i64, charged_at);
    let sessions = proptest::collection::vec((tariff, 0..20_000_i64), 1..=3);
    let runs = proptest::collection::vec((1_000..40_000_i64, 1..40_000_i64), 1..=4);
    let change = (0..STORY_MS, -30..60_i64, off_by());
    let changes = proptest::collection::vec(change, 0..6);
    (sessions, runs, changes).prop_map(|(sessions, runs, changes)| {
        let (tariffs, starts) = sessions.into_iter().unzip();
        Recorded {
            tariffs,
            starts,
            runs,
            changes,
        }
    })
}

impl Recorded {
    fn sessions(&self) -> Vec<RecordedSession> {
        let sessions = (1_i32..).zip(self.tariffs.iter().zip(&self.starts));
        let session =
            |(number, ((price, interval, charged_at), start)): (i32, (&(_, _, _), &i64))| {
                let (price, interval) = (Credits::new(*price), Millis::new(*interval));
                RecordedSession {
                    id: id(i64::from(number)),
                    slot: SlotNumber::new(number),
                    tariff: Tariff::new(price.unwrap(), interval.unwrap(), *charged_at).unwrap(),
                    started_at: at(*start),
                    settled: Settled::default(),
                    checkpoint: Checkpoint {
                        at: at(*start),
                        served: Millis::ZERO,
                    },
                    pauses: Vec::new(),
                }
            };
        sessions.map(session).collect()
    }

    /// The runs in ms after the beginning; the last one lasts.
    fn spans(&self) -> Vec<(i64, i64)> {
        let mut from = 0;
        let mut spans = Vec::new();
        for (length, gap) in &self.runs {
            spans.push((from, from + length));
            from += length + gap;
        }
        spans.last_mut().unwrap().1 = i64::MAX;
        spans
    }

    fn runs(&self) -> Vec<Run> {
        let run = |(from, to): (i64, i64)| Run {
            from: at(from),
            to: if to == i64::MAX {
                UnixMillis::MAX
            } else {
                at(to)
            },
            takeover: Takeover::Resume,
        };
        self.spans().into_iter().map(run).collect()
    }

    /// For how long runs have served what started then, by `now`.
    fn served(&self, start: i64, now: i64) -> i64 {
        let spans = self.spans().into_iter();
        let overlap = |(from, to): (i64, i64)| (to.min(now) - from.max(start)).max(0);
        spans.map(overlap).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_charged_that_no_run_served(
        recorded in recorded(), opening in 0..200_i64, after in 0..STORY_MS,
    ) {
        let sessions = recorded.sessions();
        let began = recorded.spans().last().unwrap().0;
        let now = recorded.starts.iter().fold(began, |now, start| now.max(*start)) + after / 100;
        let changes: Vec<BalanceChange> = recorded.changes.iter().map(|(true_ms, amount, off)| {
            let amount = CreditsChange::try_from(*amount).unwrap();
            BalanceChange { at: at(true_ms + off), amount }
        }).collect();
        let gone: i64 = changes.iter().map(|change| change.amount.get()).sum();
        // The ledger has the changes, and enough that they could be made.
        let balance = Credits::new(opening + gone.max(0) + 200).unwrap();
        let recover = |changes: &[BalanceChange]| {
            let user = UserId::new(1).unwrap();
            let version = WalletVersion::default();
            Wallet::recovered(user, version, balance, &sessions, changes, &recorded.runs(), at(now))
        };
        let mut wallet = recover(&changes);
        prop_assert!(wallet.instant() <= at(now), "nothing happens before its time");

        let clamped: Vec<BalanceChange> = changes
            .iter()
            .map(|change| BalanceChange { at: change.at.min(at(now)), ..*change })
            .collect();
        prop_assert_eq!(&wallet, &recover(&clamped));

        for later in [now, now + 1, now + after] {
            wallet.advance(at(later));
            for (session, start) in wallet.sessions().iter().zip(&recorded.starts) {
                let served = Millis::new(recorded.served(*start, later)).unwrap();
                let charge = session.charge(at(later)).unwrap();
                let due = session.tariff.charge(served).unwrap();
                prop_assert!(charge <= due, "{charge} charged, {due} by {served} ms served");
                prop_assert!(session.end.is_none_or(|end| end.at <= at(later)));
            }
        }
    }
}
