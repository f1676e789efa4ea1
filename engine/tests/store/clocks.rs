//! Nothing is charged that no run served, whatever the clocks of all who write say: a node is driven by hand
//! through starts, stops, settlements, crashes and returns, beside operators and another node. Each has a
//! clock that is off by up to a year, and a new one whenever it comes back. The time that really passed is
//! counted apart from all of them.

use std::sync::Arc;

use billing::{ChargedAt, Rebase, Run, SlotNumber, Tariff, Wallet};
use engine::{
    Clock, ClockReading,
    clock::ClockError,
    facts::{Fact, FactOutcome, NodeRun, ProcessId, ResumePolicy, WalletRecord},
    store::{AdjustError, Adjustment, Database, Shortfall},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schema::{
    CreditsChange, Millis, SessionId, UnixMillis, UserId, ledger::EntryKind, session::EndReason,
};

use crate::{
    on_both,
    support::{Kind, START, TestDatabase, credits, node, session},
};

on_both! {
    nothing_is_charged_that_no_run_served
}

/// How far a clock is off at most, in ms.
const YEAR: i64 = 365 * 24 * 3_600_000;
const INTERVAL_MS: i64 = 1_000;
const STEPS: u32 = 60;

/// A session as it really was served.
#[derive(Clone, Copy, Debug)]
struct Served {
    id: SessionId,
    /// How long the node has served it, in ms.
    ms: i64,
    /// What of that crashes gave away.
    lost_ms: i64,
}

/// The node, the one user and what really happened.
struct World {
    database: Arc<TestDatabase>,
    chance: StdRng,
    user: UserId,
    run: NodeRun,
    runs: Vec<Run>,
    wallet: Wallet,
    /// The node's time, and up to when it is recorded to have been alive.
    now: i64,
    alive_at: i64,
    /// The time that really passed, in ms since 1970.
    real_now: i64,
    served: Option<Served>,
    last_ended: Option<SessionId>,
    next_id: i64,
    adjustments: u32,
    ends: u32,
}

fn ms(millis: i64) -> UnixMillis {
    UnixMillis::new(millis).unwrap()
}

fn off_by(chance: &mut StdRng) -> i64 {
    match chance.random_range(0..5) {
        0 => 0,
        1 => chance.random_range(-3_000..3_000),
        2 => chance.random_range(-7_200_000..7_200_000),
        _ => chance.random_range(-YEAR..YEAR),
    }
}

/// Begins a run of the node by a clock that is off by so much. If it is refused for that, what the error
/// says is done.
async fn boot(database: &TestDatabase, name: &str, real_now: i64, off_by: i64) -> NodeRun {
    let (node, policy) = (node(name), ResumePolicy::Within(Millis::MAX));
    let wall = ms(real_now + off_by);
    let recorded = database.store.node_time(&node).await.unwrap();
    let clock = match Clock::start_from(wall, recorded) {
        Ok(clock) => clock,
        Err(ClockError::Behind { .. }) => {
            let skipping = Database::open(&database.settings).await.unwrap();
            skipping.skip_ahead(1, wall, policy).await.unwrap();
            let recorded = database.store.node_time(&node).await.unwrap();
            Clock::start_from(wall, recorded).unwrap()
        }
        Err(ClockError::Absurd) => panic!("no clock is that far off"),
    };
    let reading = ClockReading {
        at: clock.now(),
        lead: clock.lead(),
    };
    let (store, process) = (&database.store, ProcessId::random());
    store
        .begin_run(&node, &process, reading, policy)
        .await
        .unwrap()
}

impl World {
    async fn begin(database: Arc<TestDatabase>, seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let user = database.user(chance.random_range(0..40)).await;
        let run = boot(&database, "a", START, off_by(&mut chance)).await;
        let record = database.wallet(user).await;
        let (version, now) = (record.version, run.started_at);
        let wallet = Wallet::new(user, version, record.credits, now, Vec::new());
        let store = &database.store;
        let mut runs = store.earlier_runs(&run, UnixMillis::EPOCH).await.unwrap();
        runs.push(run.lasting());
        Self {
            chance,
            user,
            runs,
            wallet,
            now: now.get(),
            alive_at: now.get(),
            run,
            real_now: START,
            served: None,
            last_ended: None,
            next_id: i64::try_from(seed).unwrap() * 1_000 + 1,
            adjustments: 0,
            ends: 0,
            database,
        }
    }

    async fn step(&mut self) {
        match self.chance.random_range(0..12) {
            0..3 => self.pass(),
            3 => self.beat().await,
            4 => self.start().await,
            5 => self.stop().await,
            6 => self.settle().await,
            7..10 => self.adjust().await,
            10 => self.crash().await,
            _ => self.other_node().await,
        }
        self.wallet.advance(ms(self.now));
        self.record_ends().await;
    }

    fn pass(&mut self) {
        let passed = self.chance.random_range(1..9_000);
        self.now += passed;
        self.real_now += passed;
        if let Some(served) = &mut self.served {
            served.ms += passed;
        }
    }

    async fn beat(&mut self) {
        self.alive_at = self.now;
        let alive_at = Some(ms(self.now));
        let beat = self.database.store.record(&self.run, alive_at, &[]);
        beat.await.unwrap();
    }

    async fn record(&mut self, fact: Fact) {
        let recorded = self.database.record(&self.run, fact).await;
        assert_eq!(recorded, FactOutcome::Recorded);
    }

    async fn start(&mut self) {
        let tariff = Tariff::new(
            credits(1),
            Millis::new(INTERVAL_MS).unwrap(),
            ChargedAt::End,
        );
        let id = session(self.next_id);
        let started = self
            .wallet
            .start(ms(self.now), id, SlotNumber::default(), tariff.unwrap());
        if started.is_err() {
            return;
        }
        let opening = self.wallet.unrecorded_start().unwrap();
        assert_eq!(
            opening.started_at.get(),
            self.now,
            "it starts at its node's time"
        );
        self.next_id += 1;
        self.record(Fact::Opening(opening)).await;
        self.wallet.start_recorded(id, opening.version.next());
        let (ms, lost_ms) = (0, 0);
        self.served = Some(Served { id, ms, lost_ms });
    }

    async fn stop(&mut self) {
        if let Some(served) = self.served {
            // It may have ended by itself.
            let _gone = self.wallet.stop(ms(self.now), served.id, EndReason::User);
            self.record_ends().await;
        }
    }

    async fn settle(&mut self) {
        let due = self
            .served
            .and_then(|served| self.wallet.interim_settlement(served.id));
        if let Some(settlement) = due {
            self.record(Fact::Settlement(settlement)).await;
            self.wallet.settled(&settlement, settlement.version.next());
        }
    }

    /// Records what has ended, and holds it against what really happened.
    async fn record_ends(&mut self) {
        let Some(due) = self.wallet.settlement_due() else {
            return;
        };
        let served = self.served.take().unwrap();
        assert_eq!(due.session, served.id);
        assert!(due.at.get() <= self.now);
        let counted = served.ms - served.lost_ms;
        let cost = due.total.get();
        if due.end == Some(EndReason::User) {
            assert_eq!(due.served.get(), counted, "{served:?}");
            assert_eq!(cost, counted / INTERVAL_MS, "{served:?}");
        } else {
            assert_eq!(due.end, Some(EndReason::Depleted), "nobody else ends it");
            assert!(due.served.get() <= counted, "{due:?} {served:?}");
            assert!(cost * INTERVAL_MS <= served.ms, "{due:?} {served:?}");
        }
        self.record(Fact::Settlement(due)).await;
        self.wallet.settled(&due, due.version.next());
        self.last_ended = Some(served.id);
        self.ends += 1;
    }

    /// An operator changes the balance; the node hears of it.
    async fn adjust(&mut self) {
        self.adjustments += 1;
        let incoming = CreditsChange::incoming(credits(self.chance.random_range(1..30)));
        let (kind, amount, of) = match (self.chance.random_range(0..3), self.last_ended) {
            (0, _) => {
                let most = credits(self.chance.random_range(1..200));
                (EntryKind::Revoke, CreditsChange::outgoing(most), None)
            }
            (1, Some(ended)) => (EntryKind::Refund, incoming, Some(ended)),
            _ => (EntryKind::Grant, incoming, None),
        };
        let adjustment = Adjustment {
            user: self.user,
            kind,
            amount,
            session: of,
            shortfall: Shortfall::TakeWhatIsFree,
            at: ms(self.real_now + off_by(&mut self.chance)),
            reason: "a test".to_owned(),
            operator: "ops".to_owned(),
            idempotency_key: format!("{}", self.adjustments),
        };
        match self.database.store.adjust(adjustment).await {
            Ok(adjusted) if self.served.is_some() => {
                assert!(adjusted.at.get() <= self.now, "beyond the node's own time");
            }
            Ok(_) | Err(AdjustError::MoreThanFree { .. } | AdjustError::MoreThanSpent { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let since = self.wallet.version();
        let record = self.database.store.wallet(self.user, since).await;
        let record = record.unwrap().unwrap();
        let live = record.live.iter();
        let facts = Rebase {
            version: record.version,
            ledger_balance: record.credits,
            changes: record.changes.clone(),
            live: live
                .map(|live| (live.session.id, live.session.settled))
                .collect(),
        };
        assert_eq!(self.wallet.rebase(ms(self.now), &facts), []);
    }

    /// The process dies, and comes back after a while by another clock.
    async fn crash(&mut self) {
        if let Some(served) = &mut self.served {
            let recorded = self.database.proved_by("a").await.unwrap();
            let checkpoint = self.database.wallet(self.user).await.live[0]
                .session
                .checkpoint
                .at;
            // What is lost is what no run proves of it; a settlement proves it too.
            let cut = checkpoint.get().max(self.alive_at);
            assert!(cut <= recorded.get());
            served.lost_ms += self.now - cut;
        }
        self.real_now += self.chance.random_range(1..4_000);
        let off_by = off_by(&mut self.chance);
        self.run = boot(&self.database, "a", self.real_now, off_by).await;
        self.now = self.run.started_at.get();
        self.alive_at = self.now;
        let store = &self.database.store;
        let earlier = store.earlier_runs(&self.run, UnixMillis::EPOCH).await;
        self.runs = earlier.unwrap();
        self.runs.push(self.run.lasting());
        let record = self.database.wallet(self.user).await;
        self.wallet = rebuilt(&record, &self.runs, ms(self.now));
        assert!(self.wallet.instant() <= ms(self.now));
    }

    /// Another node on the same database comes and is alive by a clock of its own.
    async fn other_node(&mut self) {
        let off_by = off_by(&mut self.chance);
        let other = boot(&self.database, "b", self.real_now, off_by).await;
        let alive_at = Some(ms(other.started_at.get() + 1_000));
        let beat = self.database.store.record(&other, alive_at, &[]);
        beat.await.unwrap();
        // A database that was restored for it has a run of every node begun.
        let store = &self.database.store;
        let is_ours = store.record(&self.run, None, &[]).await.is_ok();
        if !is_ours {
            self.crash().await;
        }
    }
}

fn rebuilt(record: &WalletRecord, runs: &[Run], now: UnixMillis) -> Wallet {
    let live: Vec<_> = record
        .live
        .iter()
        .map(|live| live.session.clone())
        .collect();
    let (user, version, credits) = (record.user, record.version, record.credits);
    let changes = &record.since_checkpoints;
    Wallet::recovered(user, version, credits, &live, changes, runs, now)
}

async fn nothing_is_charged_that_no_run_served(database: Arc<TestDatabase>) {
    let seeds = if database.kind() == Kind::Sqlite {
        24
    } else {
        8
    };
    let mut ends = 0;
    for seed in 0..seeds {
        let mut world = World::begin(Arc::clone(&database), seed).await;
        for _ in 0..STEPS {
            world.step().await;
        }
        if world.served.is_some() {
            world.stop().await;
        }
        ends += u64::from(world.ends);
    }
    assert!(ends > seeds, "sessions came to their ends: {ends}");
}
