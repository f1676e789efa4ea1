//! A wallet with its database and its owner: the way in which the engine drives `billing`, with
//! writes that get lost, news that comes late and wakes at any time.

use std::collections::BTreeMap;

use billing::{
    BalanceChange, Checkpoint, Opening, Rebase, RecordedSession, Run, Settled, Settlement,
    SlotNumber, Takeover, Tariff, Wallet, WalletVersion,
};
use schema::{Credits, CreditsChange, Millis, SessionId, UnixMillis, UserId, session::EndReason};

use crate::model::{Command, Model, State};

pub(crate) fn credits(credits: i64) -> Credits {
    Credits::new(credits).unwrap()
}

pub(crate) fn ms(millis: i64) -> UnixMillis {
    UnixMillis::new(millis).unwrap()
}

pub(crate) fn length(millis: i64) -> Millis {
    Millis::new(millis).unwrap()
}

pub(crate) fn id(id: i64) -> SessionId {
    SessionId::new(id).unwrap()
}

pub(crate) fn change(amount: i64) -> CreditsChange {
    CreditsChange::try_from(amount).unwrap()
}

/// What the owner of a wallet may do at any time without changing what is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// A wake.
    Advance,
    /// What is to be recorded next is.
    Record,
    /// The same, but the owner never hears of it.
    RecordUnheard,
    /// The session's charge so far is recorded.
    Settle { id: i64 },
    /// The same, but the owner never hears of it.
    SettleUnheard { id: i64 },
    /// The owner reads the wallet, if somebody else has written to it.
    Notice,
}

/// How a node comes to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Its process dies, and all that it knows is what is recorded.
    Crash,
    /// Its process goes on in another run.
    InPlace,
}

/// A database with one wallet, to the rules of laws 4 and 7.
#[derive(Debug, Default)]
struct Database {
    version: i64,
    ledger_balance: i64,
    live: BTreeMap<SessionId, RecordedSession>,
    ended: BTreeMap<SessionId, Settlement>,
    started: BTreeMap<SessionId, UnixMillis>,
    changes: Vec<(i64, BalanceChange)>,
}

/// Somebody else has written to the wallet meanwhile; nothing was changed.
struct Stale;

impl Database {
    fn open(&mut self, opening: &Opening) -> Result<WalletVersion, Stale> {
        if !self.started.contains_key(&opening.session) {
            self.write_from(opening.version)?;
            self.started.insert(opening.session, opening.started_at);
            let session = RecordedSession {
                id: opening.session,
                slot: opening.slot,
                tariff: opening.tariff,
                started_at: opening.started_at,
                settled: Settled::default(),
                checkpoint: Checkpoint {
                    at: opening.started_at,
                    served: Millis::ZERO,
                },
                pauses: Vec::new(),
            };
            self.live.insert(opening.session, session);
        }
        Ok(opening.version.next())
    }

    fn settle(&mut self, settlement: &Settlement) -> Result<WalletVersion, Stale> {
        let same = |seq, total| seq == settlement.seq && total == settlement.total;
        let is_recorded = match (
            self.live.get(&settlement.session),
            self.ended.get(&settlement.session),
        ) {
            (Some(RecordedSession { settled, .. }), _) => {
                settlement.end.is_none() && same(settled.seq, settled.total)
            }
            (None, Some(ended)) => same(ended.seq, ended.total),
            (None, None) => panic!("a settlement of a session that never started: {settlement:?}"),
        };
        if !is_recorded {
            self.write_from(settlement.version)?;
            let session = self
                .live
                .get_mut(&settlement.session)
                .expect("only live sessions settle");
            let settled = &mut session.settled;
            assert_eq!(
                settlement.seq,
                settled.seq + 1,
                "settlements are numbered one by one"
            );
            let difference = settlement.total.get() - settled.total.get();
            assert!(
                difference >= 0,
                "a settlement below the one before it: {settlement:?}"
            );
            self.ledger_balance -= difference;
            assert!(
                self.ledger_balance >= 0,
                "the wallet can't pay {settlement:?}"
            );
            *settled = Settled {
                seq: settlement.seq,
                total: settlement.total,
            };
            session.checkpoint = Checkpoint {
                at: settlement.at,
                served: settlement.served,
            };
            if settlement.end.is_some() {
                self.live.remove(&settlement.session);
                self.ended.insert(settlement.session, *settlement);
            }
        }
        Ok(settlement.version.next())
    }

    fn write_from(&mut self, version: WalletVersion) -> Result<(), Stale> {
        if version.get() != self.version {
            return Err(Stale);
        }
        self.version += 1;
        Ok(())
    }

    fn change(&mut self, at_ms: i64, amount: i64) {
        self.version += 1;
        self.ledger_balance += amount;
        self.changes.push((
            self.version,
            BalanceChange {
                at: ms(at_ms),
                amount: change(amount),
            },
        ));
    }

    /// What others changed since the last settlement, or start of a live session.
    fn since_checkpoints(&self) -> Vec<BalanceChange> {
        let checkpoints = self.live.values().map(|session| session.checkpoint.at);
        let ends = self.ended.values().map(|ended| ended.at);
        let latest = checkpoints.chain(ends).max().unwrap_or(UnixMillis::MAX);
        let changes = self.changes.iter().map(|(_, change)| *change);
        changes.filter(|change| change.at > latest).collect()
    }

    fn facts_since(&self, since: WalletVersion) -> Rebase {
        let changes = self
            .changes
            .iter()
            .filter(|(version, _)| *version > since.get())
            .map(|(_, change)| *change);
        Rebase {
            version: WalletVersion::new(self.version),
            ledger_balance: credits(self.ledger_balance),
            changes: changes.collect(),
            live: self
                .live
                .iter()
                .map(|(id, session)| (*id, session.settled))
                .collect(),
        }
    }
}

/// The wallet, its database, and how its owner hears of what others write.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) wallet: Wallet,
    database: Database,
    /// The runs of the node, the last of which lasts.
    runs: Vec<Run>,
}

impl World {
    pub(crate) fn new(opening: i64) -> Self {
        let database = Database {
            ledger_balance: opening,
            ..Database::default()
        };
        let user = UserId::new(1).unwrap();
        let wallet = Wallet::new(
            user,
            WalletVersion::default(),
            credits(opening),
            ms(0),
            Vec::new(),
        );
        let first = Run {
            from: ms(0),
            to: UnixMillis::MAX,
            takeover: Takeover::Resume,
        };
        Self {
            wallet,
            database,
            runs: vec![first],
        }
    }

    /// The node stands still from `cut` until `back`. By a crash it forgets what is not recorded: ends
    /// by themselves, for what was asked for is recorded by then.
    pub(crate) fn cut(&mut self, cut: i64, back: i64, takeover: Takeover, kind: Cut) {
        match kind {
            // Where several sessions share a wallet, credits that came after one of them ended could
            // not be told from earlier ones: such ends are recorded by then.
            Cut::Crash if self.database.ended.len() + self.wallet.sessions().len() > 1 => {
                self.finish(cut);
            }
            Cut::Crash => self.record_commands(cut),
            Cut::InPlace => {}
        }
        if let Some(run) = self.runs.last_mut() {
            run.to = ms(cut);
        }
        let run = Run {
            from: ms(back),
            to: UnixMillis::MAX,
            takeover,
        };
        self.runs.push(run);
        match kind {
            Cut::InPlace => self.wallet.taken_over(ms(cut), &run),
            Cut::Crash => {
                let recorded: Vec<RecordedSession> = self.database.live.values().cloned().collect();
                self.wallet = Wallet::recovered(
                    self.wallet.user(),
                    WalletVersion::new(self.database.version),
                    credits(self.database.ledger_balance),
                    &recorded,
                    &self.database.since_checkpoints(),
                    &self.runs,
                    ms(back),
                );
            }
        }
    }

    /// Whether the owner knows all that others wrote.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.wallet.version().get() == self.database.version
    }

    /// Somebody else changes the balance.
    pub(crate) fn change(&mut self, at_ms: i64, amount: i64) {
        self.database.change(at_ms, amount);
    }

    pub(crate) fn notice(&mut self, now_ms: i64) {
        if !self.is_in_sync() {
            let facts = self.database.facts_since(self.wallet.version());
            self.wallet.rebase(ms(now_ms), &facts);
        }
    }

    /// The owner obeys. A debit is not the owner's business.
    pub(crate) fn command(&mut self, now_ms: i64, command: Command) {
        let now = ms(now_ms);
        match command {
            Command::Start {
                id: number,
                price,
                interval_ms,
                charged_at,
            } => {
                let tariff = Tariff::new(credits(price), length(interval_ms), charged_at).unwrap();
                let slot = SlotNumber::new(i32::try_from(number).unwrap());
                if self.wallet.start(now, id(number), slot, tariff).is_err() {
                    // It may be for credits that the owner hasn't heard of.
                    self.notice(now_ms);
                    let _rejected = self.wallet.start(now, id(number), slot, tariff);
                }
            }
            Command::Stop { id: number, reason } => {
                let _rejected = self.wallet.stop(now, id(number), reason);
            }
            Command::Pause => self.wallet.pause(now),
            Command::Resume => self.wallet.resume(now),
            Command::Debit(_) => {}
        }
    }

    pub(crate) fn chore(&mut self, now_ms: i64, chore: Chore) {
        match chore {
            Chore::Advance => self.wallet.advance(ms(now_ms)),
            Chore::Record => _ = self.record_next(now_ms, true),
            Chore::RecordUnheard => _ = self.record_next(now_ms, false),
            Chore::Settle { id } => self.settle(now_ms, id, true),
            Chore::SettleUnheard { id } => self.settle(now_ms, id, false),
            Chore::Notice => self.notice(now_ms),
        }
    }

    /// Records what is to be recorded next; returns whether there was anything.
    fn record_next(&mut self, now_ms: i64, is_heard: bool) -> bool {
        self.wallet.advance(ms(now_ms));
        if let Some(opening) = self.wallet.unrecorded_start() {
            match self.database.open(&opening) {
                Ok(version) if is_heard => self.wallet.start_recorded(opening.session, version),
                Ok(_) => {}
                Err(Stale) => self.notice(now_ms),
            }
            return true;
        }
        let Some(settlement) = self.wallet.settlement_due() else {
            return false;
        };
        self.write(now_ms, &settlement, is_heard);
        true
    }

    fn settle(&mut self, now_ms: i64, number: i64, is_heard: bool) {
        self.wallet.advance(ms(now_ms));
        if let Some(settlement) = self.wallet.interim_settlement(id(number)) {
            self.write(now_ms, &settlement, is_heard);
        }
    }

    fn write(&mut self, now_ms: i64, settlement: &Settlement, is_heard: bool) {
        match self.database.settle(settlement) {
            Ok(version) if is_heard => _ = self.wallet.settled(settlement, version),
            Ok(_) => {}
            Err(Stale) => self.notice(now_ms),
        }
    }

    /// What somebody asked for is recorded.
    fn record_commands(&mut self, now_ms: i64) {
        self.wallet.advance(ms(now_ms));
        let is_asked = |session: &billing::Session| {
            let reason = session.end.map(|end| end.reason);
            !session.is_recorded || reason.is_some_and(|reason| reason != EndReason::Depleted)
        };
        while self.wallet.sessions().iter().any(is_asked) {
            self.record_next(now_ms, true);
        }
    }

    /// All that is to be recorded and read is.
    pub(crate) fn finish(&mut self, now_ms: i64) {
        loop {
            self.notice(now_ms);
            if !self.record_next(now_ms, true) && self.is_in_sync() {
                return;
            }
        }
    }

    /// The wallet says what the model says, at the instant of both.
    pub(crate) fn check_balance(&self, model: &Model) {
        let told = (self.wallet.balance().get(), self.wallet.free().get());
        assert_eq!(
            told,
            (model.balance, model.free()),
            "balance and free at {}",
            model.now_ms
        );
        for session in self
            .wallet
            .sessions()
            .iter()
            .filter(|session| session.is_live())
        {
            let number = session.id.get();
            let expected = model
                .session(number)
                .expect("a live session that the model knows");
            assert!(
                !matches!(expected.state, State::Ended { .. }),
                "session {number} lives at {}",
                model.now_ms
            );
            let charge = session.charge(self.wallet.instant()).map(Credits::get);
            assert_eq!(
                charge,
                Some(expected.consumed),
                "charge of {number} at {}",
                model.now_ms
            );
        }
    }

    /// What the database says in the end is what the model says.
    pub(crate) fn check_records(&self, model: &Model) {
        for expected in &model.sessions {
            let number = expected.id;
            assert_eq!(
                self.database.started.get(&id(number)),
                Some(&ms(expected.started_ms)),
                "start of {number}"
            );
            if let State::Ended { at_ms, reason } = expected.state {
                let ended = self
                    .database
                    .ended
                    .get(&id(number))
                    .expect("an end that is recorded");
                let told = (
                    ended.at.get(),
                    ended.end,
                    ended.total.get(),
                    ended.served.get(),
                );
                assert_eq!(
                    told,
                    (at_ms, Some(reason), expected.consumed, expected.served_ms),
                    "end of {number}"
                );
            } else {
                let session = self
                    .wallet
                    .session(id(number))
                    .expect("a session that lives");
                assert!(session.is_live(), "session {number} lives");
                assert_eq!(
                    session.meter.served(self.wallet.instant()).get(),
                    expected.served_ms
                );
            }
        }
        // A start that was accepted before a debit was heard of ended where it began.
        for rejected in &model.rejected {
            if let Some(ended) = self.database.ended.get(&id(*rejected)) {
                let started = self.database.started.get(&id(*rejected));
                assert_eq!(
                    (Some(&ended.at), ended.end),
                    (started, Some(EndReason::Depleted))
                );
                assert_eq!((ended.total, ended.served), (Credits::ZERO, Millis::ZERO));
            }
            assert!(!self.database.live.contains_key(&id(*rejected)));
        }
        let unsettled: i64 = self
            .database
            .live
            .iter()
            .map(|(id, RecordedSession { settled, .. })| {
                let session = self
                    .wallet
                    .session(*id)
                    .expect("a live session that the wallet knows");
                session.charge(self.wallet.instant()).unwrap().get() - settled.total.get()
            })
            .sum();
        assert_eq!(
            self.database.ledger_balance - unsettled,
            model.balance,
            "the ledger"
        );
    }
}
