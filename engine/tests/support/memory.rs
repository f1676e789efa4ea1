//! A store in memory, for tests on tokio's paused clock. It keeps the rules of the real stores for
//! wallets, sessions, runs and the ledger; it has no passwords, no tokens and no audit.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use billing::{
    BalanceChange, Checkpoint, Opening, RecordedSession, Run, Settled, Settlement, SlotNumber,
    Takeover, Wallet, WalletVersion,
};
use engine::{
    ClockReading,
    engine::{Started, Stopped},
    facts::{
        Fact, FactOutcome, LiveSession, NodeName, NodeRun, NodeTime, ProcessId, RecordedBalance,
        Recording, Refusal, ResumePolicy, WalletAsked, WalletReading, WalletRecord,
    },
    keys::{Answer, IdempotencyKey, KEPT_FOR, KeptAnswer},
    lanes::Lanes,
    store::{
        AccountKey, AdjustError, Adjusted, Adjustment, CreateUserError, EraseError, Erasure,
        LiveSessionOf, NewPassword, NewUser, Notice, OldSession, RevokedToken, RunSpan,
        SessionCursor, Shortfall, Standing, Store, StoreError, TokenGeneration, TokenStanding,
        UserRecord,
        audit::{AuditLimits, AuditPage, RepairMode, Repaired},
    },
};
use rand::{RngExt, rngs::StdRng};
use schema::{
    Credits, CreditsChange, EntryId, Millis, SessionId, UnixMillis, UserId,
    ledger::{EntryKind, LedgerEntry},
    session::{EndReason, SessionRecord},
};

use super::world::BEGIN;

/// The store. Its faults can be switched while it is used.
#[derive(Default)]
pub struct MemoryStore {
    data: Mutex<Data>,
    is_down: AtomicBool,
    is_read_only: AtomicBool,
    write_delay: Mutex<Duration>,
    faults: Mutex<Option<Faults>>,
    batch_fates: Mutex<VecDeque<BatchFate>>,
    sabotage: Mutex<Option<Sabotage>>,
}

/// What becomes of one of the journal's batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFate {
    /// It is recorded, and the reply is lost.
    Unknown,
    /// The database refuses what is asked for, and records nothing.
    Refused,
}

/// What goes wrong between the engine and its store, by chance, from a seed.
pub struct Faults {
    /// Where chance comes from.
    pub chance: StdRng,
    /// Of a thousand calls, how many fail and change nothing.
    pub lost_calls: u32,
    /// Of a thousand calls, how many are done and then reported as failed.
    pub lost_replies: u32,
    /// Of a thousand calls, how many take seconds.
    pub slow_calls: u32,
}

/// A rule that the store breaks on purpose, to see that the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Facts are recorded whatever version they were decided from.
    VersionsIgnored,
    /// A settlement that comes again is added again.
    SettlementsAdded,
    /// A run may write although another one has begun.
    EpochsIgnored,
    /// No key is kept.
    KeysIgnored,
    /// A session may start where another one is live.
    SlotsIgnored,
}

/// What is to become of one call.
#[derive(PartialEq, Eq)]
enum Fate {
    Done,
    ReplyLost,
}

#[derive(Default)]
struct Data {
    users: BTreeMap<i64, UserRow>,
    sessions: BTreeMap<SessionId, SessionRow>,
    ledger: Vec<(UserId, WalletVersion, LedgerEntry)>,
    runs: Vec<RunRow>,
    notices: Vec<Notice>,
    /// Sessions whose start was stale because of a revoke.
    overtaken: BTreeSet<SessionId>,
    adjusted: BTreeMap<(UserId, String), (EntryKind, Option<SessionId>, Adjusted)>,
    keys: BTreeMap<(UserId, IdempotencyKey), KeyRow>,
    next_session: i64,
}

struct UserRow {
    email: String,
    credits: Credits,
    version: WalletVersion,
    last_instant: UnixMillis,
    created_at: UnixMillis,
}

struct SessionRow {
    user: UserId,
    node: NodeName,
    recorded: RecordedSession,
    /// The wallet's version by the session's start or its last settlement.
    version: WalletVersion,
    end: Option<(UnixMillis, EndReason)>,
    left_at_end: Option<Credits>,
}

struct KeyRow {
    kept: KeptAnswer,
    at: UnixMillis,
}

struct RunRow {
    run: NodeRun,
    alive_at: UnixMillis,
    last_instant: UnixMillis,
    is_current: bool,
    lead: Millis,
}

impl RunRow {
    fn proved(&self) -> UnixMillis {
        self.alive_at.max(self.last_instant)
    }

    fn recorded(&self) -> Run {
        Run {
            from: self.run.started_at,
            to: self.alive_at,
            takeover: self.run.takeover,
        }
    }
}

impl MemoryStore {
    /// A user with `credits`.
    pub fn add_user(&self, credits: i64) -> UserId {
        let mut data = self.data();
        let id = data.users.len() as i64 + 1;
        let credits = Credits::new(credits).unwrap();
        let row = UserRow {
            email: format!("user-{id}@example.invalid"),
            credits,
            version: WalletVersion::default(),
            last_instant: UnixMillis::EPOCH,
            created_at: UnixMillis::EPOCH,
        };
        data.users.insert(id, row);
        UserId::new(id).unwrap()
    }

    /// Every call fails from now on, or none does.
    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    /// The journal's batches fail from now on and all else works, or everything does.
    pub fn set_read_only(&self, is_read_only: bool) {
        self.is_read_only.store(is_read_only, Ordering::SeqCst);
    }

    /// The next batches with facts in them come to this, in this order.
    pub fn set_batch_fates(&self, fates: &[BatchFate]) {
        *self.batch_fates.lock().unwrap() = fates.iter().copied().collect();
    }

    /// From now on the journal's batches take so long.
    pub fn set_write_delay(&self, delay: Duration) {
        *self.write_delay.lock().unwrap() = delay;
    }

    /// Calls go wrong by chance from now on, or none does.
    pub fn set_faults(&self, faults: Option<Faults>) {
        *self.faults.lock().unwrap() = faults;
    }

    /// Breaks a rule from now on.
    pub fn set_sabotage(&self, sabotage: Option<Sabotage>) {
        *self.sabotage.lock().unwrap() = sabotage;
    }

    /// Everything that is recorded of sessions, in the order of their ids.
    pub fn all_sessions(&self) -> Vec<(UserId, SessionRecord)> {
        let data = self.data();
        data.sessions
            .iter()
            .map(|(id, row)| (row.user, row.record(*id)))
            .collect()
    }

    /// The wallet's balance right after the session's end was recorded.
    pub fn left_at_end(&self, session: SessionId) -> Option<Credits> {
        self.data().sessions.get(&session)?.left_at_end
    }

    /// How many idempotency keys are kept.
    pub fn keys(&self) -> usize {
        self.data().keys.len()
    }

    /// What the ledger says that the user has, and what the user's row says.
    pub fn balances(&self, user: UserId, opening: i64) -> (i64, i64) {
        let data = self.data();
        let moved = data.ledger.iter().filter(|(owner, ..)| *owner == user);
        let sum: i64 = moved.map(|(_, _, entry)| entry.amount.get()).sum();
        (opening + sum, data.users[&user.get()].credits.get())
    }

    /// Waits as long as the call takes, and draws what becomes of it.
    async fn fate(&self) -> Result<Fate, StoreError> {
        let drawn = self.faults.lock().unwrap().as_mut().map(|faults| {
            let is_slow = faults.chance.random_range(0..1_000) < faults.slow_calls;
            let wait = faults
                .chance
                .random_range(if is_slow { 1_000..8_000 } else { 0..30 });
            (
                wait,
                faults.chance.random_range(0..1_000),
                faults.lost_calls,
                faults.lost_replies,
            )
        });
        let Some((wait_ms, draw, lost_calls, lost_replies)) = drawn else {
            return Ok(Fate::Done);
        };
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        match draw {
            draw if draw < lost_calls => Err(lost()),
            draw if draw < lost_calls + lost_replies => Ok(Fate::ReplyLost),
            _ => Ok(Fate::Done),
        }
    }

    /// The first node's runs, each from its start to its last `alive_at`, in ms since [`BEGIN`]; the one that lasts
    /// has no end.
    pub fn runs(&self) -> Vec<(i64, Option<i64>)> {
        let data = self.data();
        let node = data.runs.first().map(|row| &row.run.node);
        let runs = data.runs.iter().filter(|row| Some(&row.run.node) == node);
        let runs = runs.map(|row| {
            let alive_at = row.alive_at.get() - BEGIN;
            let to = (!row.is_current).then_some(alive_at);
            (row.run.started_at.get() - BEGIN, to)
        });
        runs.collect()
    }

    /// What came into the wallet before `end`, less what went out up to then: what came in at that very
    /// instant may have come after it.
    pub fn moved_before(&self, user: UserId, end: UnixMillis) -> i64 {
        let data = self.data();
        let entries = data.ledger.iter().filter(|(owner, ..)| *owner == user);
        let amounts = entries.map(|(_, _, entry)| (entry.at, entry.amount.get()));
        amounts
            .filter(|(at, amount)| *at < end || (*at == end && *amount < 0))
            .map(|(_, amount)| amount)
            .sum()
    }

    /// For how long the session's node could have served it: while its runs lasted. That a run lasted
    /// shows by its `alive_at`, and by what it recorded of the session.
    pub fn available(&self, session: SessionId) -> Millis {
        let data = self.data();
        let row = &data.sessions[&session];
        let usage = data.ledger.iter().map(|(_, _, entry)| entry);
        let usage = usage.filter(|entry| entry.session_id == Some(session));
        let mut proofs: Vec<UnixMillis> = usage.map(|entry| entry.at).collect();
        proofs.push(row.recorded.checkpoint.at);
        let runs = || data.runs.iter().filter(|run| run.run.node == row.node);
        let nexts = runs().skip(1).map(|next| next.run.started_at);
        let spans = runs().zip(nexts.chain([UnixMillis::MAX]));
        let available = spans.map(|(run, next)| {
            let from = run.run.started_at;
            let own = proofs.iter().filter(|proof| (from..next).contains(proof));
            let to = own.fold(run.alive_at, |to, proof| to.max(*proof));
            let to = to.min(row.recorded.checkpoint.at);
            to.since(from.max(row.recorded.started_at)).get()
        });
        Millis::new(available.sum()).unwrap()
    }

    /// The greatest instant at which the node's current run was alive.
    pub fn alive_at(&self) -> UnixMillis {
        self.data()
            .runs
            .iter()
            .map(|run| run.alive_at)
            .max()
            .unwrap()
    }

    /// What the session was settled for, one amount for each ledger entry.
    pub fn usage(&self, session: SessionId) -> Vec<i64> {
        let amounts = self.amounts(EntryKind::Usage, session);
        amounts.into_iter().map(|amount| -amount).collect()
    }

    /// What of the session's cost was refunded.
    pub fn refunded(&self, session: SessionId) -> i64 {
        self.amounts(EntryKind::Refund, session).into_iter().sum()
    }

    fn amounts(&self, kind: EntryKind, session: SessionId) -> Vec<i64> {
        let data = self.data();
        let of_session = data
            .ledger
            .iter()
            .filter(|(_, _, entry)| entry.kind == kind && entry.session_id == Some(session));
        of_session.map(|(_, _, entry)| entry.amount.get()).collect()
    }

    /// How many starts were stale by a revoke and never recorded.
    pub fn overtaken_starts(&self) -> usize {
        let data = self.data();
        let overtaken = data.overtaken.iter();
        overtaken
            .filter(|session| !data.sessions.contains_key(session))
            .count()
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap()
    }

    fn up(&self) -> Result<MutexGuard<'_, Data>, StoreError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(StoreError::TimedOut(Duration::ZERO));
        }
        Ok(self.data())
    }
}

impl SessionRow {
    fn record(&self, id: SessionId) -> SessionRecord {
        SessionRecord {
            session_id: id,
            started_at: self.recorded.started_at,
            ended_at: self.end.map(|(at, _)| at),
            credits_consumed: self.recorded.settled.total,
            end_reason: self.end.map(|(_, reason)| reason),
            served_ms: self.recorded.checkpoint.served,
            credits_per_interval: self.recorded.tariff.price(),
            interval_ms: self.recorded.tariff.interval(),
        }
    }
}

impl Data {
    fn unpaid_ends(&self, user: UserId, since: UnixMillis) -> Vec<UnixMillis> {
        let of_user = self.sessions.values().filter(|row| row.user == user);
        let unpaid = of_user.filter(|row| row.recorded.settled.total.is_zero());
        let mut ends: Vec<UnixMillis> = unpaid
            .filter_map(|row| row.end)
            .filter(|(at, reason)| *reason == EndReason::User && *at > since)
            .map(|(at, _)| at)
            .collect();
        ends.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
        ends
    }

    fn wallet(&self, user: UserId, since: Option<WalletVersion>) -> Option<WalletRecord> {
        let row = self.users.get(&user.get())?;
        let of_user = self
            .sessions
            .values()
            .filter(|session| session.user == user && session.end.is_none());
        let checkpoints = of_user.clone().map(|session| session.version);
        let own = self.ledger.iter().filter(|(owner, ..)| *owner == user);
        let usage = own
            .clone()
            .filter(|(.., entry)| entry.kind == EntryKind::Usage);
        let latest = checkpoints
            .chain(usage.map(|(_, version, _)| *version))
            .max();
        let since_checkpoints = own.filter(|(_, version, entry)| {
            entry.kind != EntryKind::Usage && latest.is_some_and(|latest| *version > latest)
        });
        let from_outside = self.ledger.iter().filter(|(owner, version, entry)| {
            *owner == user
                && entry.kind != EntryKind::Usage
                && since.is_some_and(|since| *version > since)
        });
        Some(WalletRecord {
            is_closing: false,
            user,
            version: row.version,
            credits: row.credits,
            last_instant: row.last_instant,
            since_checkpoints: since_checkpoints
                .map(|(_, _, entry)| BalanceChange {
                    at: entry.at,
                    amount: entry.amount,
                })
                .collect(),
            live: of_user
                .clone()
                .map(|session| LiveSession {
                    node: session.node.clone(),
                    session: session.recorded.clone(),
                })
                .collect(),
            changes: from_outside
                .map(|(_, _, entry)| BalanceChange {
                    at: entry.at,
                    amount: entry.amount,
                })
                .collect(),
        })
    }

    fn begin_run(
        &mut self,
        node: &NodeName,
        process: &ProcessId,
        now: ClockReading,
        policy: ResumePolicy,
    ) -> NodeRun {
        let before = self.runs.iter_mut().rfind(|row| row.run.node == *node);
        let (epoch, started_at, takeover) = before.map_or((1, now.at, Takeover::Resume), |row| {
            row.is_current = false;
            let after = UnixMillis::new(row.proved().get() + 1).unwrap();
            let started_at = now.at.max(after);
            let takeover = policy.takeover(row.alive_at, started_at);
            (row.run.epoch + 1, started_at, takeover)
        });
        let run = NodeRun {
            node: node.clone(),
            epoch,
            process: process.clone(),
            started_at,
            takeover,
        };
        self.runs.push(RunRow {
            run: run.clone(),
            alive_at: started_at,
            last_instant: UnixMillis::EPOCH,
            is_current: true,
            lead: now.lead,
        });
        run
    }

    fn runs_before(&self, run: &NodeRun) -> Vec<Run> {
        let earlier = self
            .runs
            .iter()
            .filter(|row| row.run.node == run.node && row.run.epoch < run.epoch);
        earlier.map(RunRow::recorded).collect()
    }

    fn enter(&mut self, user: UserId, version: WalletVersion, entry: LedgerEntry) {
        self.ledger.push((user, version, entry));
    }

    fn entry_id(&self) -> EntryId {
        EntryId::new(self.ledger.len() as i64 + 1).unwrap()
    }

    fn open(
        &mut self,
        node: &NodeName,
        opening: &Opening,
        sabotage: Option<Sabotage>,
    ) -> FactOutcome {
        if let Some(session) = self.sessions.get(&opening.session) {
            let is_same =
                session.user == opening.user && session.recorded.started_at == opening.started_at;
            return if is_same {
                FactOutcome::Recorded
            } else {
                FactOutcome::Refused(Refusal::Contradiction)
            };
        }
        let is_taken = self.sessions.values().any(|session| {
            session.user == opening.user
                && session.recorded.slot == opening.slot
                && session.end.is_none()
        });
        let Some(row) = self.users.get_mut(&opening.user.get()) else {
            return FactOutcome::Refused(Refusal::UserUnknown);
        };
        if row.version != opening.version && sabotage != Some(Sabotage::VersionsIgnored) {
            let last = self
                .ledger
                .iter()
                .rfind(|(owner, ..)| *owner == opening.user);
            if last.is_some_and(|(_, _, entry)| entry.kind == EntryKind::Revoke) {
                self.overtaken.insert(opening.session);
            }
            return FactOutcome::Stale;
        }
        if is_taken && sabotage != Some(Sabotage::SlotsIgnored) {
            return FactOutcome::Refused(Refusal::SlotTaken);
        }
        row.version = row.version.next();
        row.last_instant = row.last_instant.max(opening.started_at);
        let recorded = RecordedSession {
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
        let row = SessionRow {
            user: opening.user,
            node: node.clone(),
            recorded,
            version: opening.version.next(),
            end: None,
            left_at_end: None,
        };
        self.sessions.insert(opening.session, row);
        FactOutcome::Recorded
    }

    /// Records a fact with its keys.
    fn record(
        &mut self,
        node: &NodeName,
        recording: &Recording,
        sabotage: Option<Sabotage>,
    ) -> FactOutcome {
        let user = recording.fact.user();
        let own = answered(&recording.fact);
        let is_used_elsewhere = recording.keys.iter().any(|request| {
            let kept = self.kept(user, &request.key, recording.at);
            kept.is_some_and(|kept| Some(used_for(&kept.answer)) != own)
        });
        if self.users.contains_key(&user.get()) && is_used_elsewhere {
            return FactOutcome::Refused(Refusal::KeyUsed);
        }
        let outcome = match &recording.fact {
            Fact::Opening(opening) => self.open(node, opening, sabotage),
            Fact::Settlement(settlement) => self.settle(settlement, sabotage),
        };
        if outcome == FactOutcome::Recorded && sabotage != Some(Sabotage::KeysIgnored) {
            self.keep(recording);
        }
        outcome
    }

    fn kept(&self, user: UserId, key: &IdempotencyKey, now: UnixMillis) -> Option<KeptAnswer> {
        let row = self.keys.get(&(user, key.clone()));
        row.filter(|row| now.since(row.at) < KEPT_FOR)
            .map(|row| row.kept)
    }

    /// Keeps and forgets the keys of a fact that is recorded.
    fn keep(&mut self, recording: &Recording) {
        let user = recording.fact.user();
        let answer = match &recording.fact {
            Fact::Opening(opening) => Answer::Started(Started {
                session: opening.session,
                started_at: opening.started_at,
            }),
            Fact::Settlement(settlement) => {
                let row = &self.sessions[&settlement.session];
                let (Some((ended_at, reason)), Some(final_credits)) = (row.end, row.left_at_end)
                else {
                    return;
                };
                Answer::Stopped(Stopped {
                    session: settlement.session,
                    ended_at,
                    reason,
                    consumed: row.recorded.settled.total,
                    final_credits,
                })
            }
        };
        for request in &recording.keys {
            if self.kept(user, &request.key, recording.at).is_none() {
                let fingerprint = request.fingerprint;
                let row = KeyRow {
                    kept: KeptAnswer {
                        fingerprint,
                        answer,
                    },
                    at: recording.at,
                };
                self.keys.insert((user, request.key.clone()), row);
            }
        }
        if let Some(key) = &recording.forgotten {
            let name = (user, key.clone());
            let own = used_for(&answer).0;
            if self
                .keys
                .get(&name)
                .is_some_and(|row| used_for(&row.kept.answer).0 == own)
            {
                self.keys.remove(&name);
            }
        }
    }

    fn settle(&mut self, settlement: &Settlement, sabotage: Option<Sabotage>) -> FactOutcome {
        let entry_id = self.entry_id();
        let (Some(row), Some(session)) = (
            self.users.get_mut(&settlement.user.get()),
            self.sessions.get_mut(&settlement.session),
        ) else {
            return FactOutcome::Refused(Refusal::UserUnknown);
        };
        let settled = session.recorded.settled;
        if (settled.seq, settled.total) == (settlement.seq, settlement.total) {
            if sabotage == Some(Sabotage::SettlementsAdded)
                && let Some(left) = row.credits.checked_sub(settlement.total)
            {
                row.credits = left;
            }
            return FactOutcome::Recorded;
        }
        if row.version != settlement.version && sabotage != Some(Sabotage::VersionsIgnored) {
            return FactOutcome::Stale;
        }
        if session.end.is_some() {
            return FactOutcome::Refused(Refusal::SessionEnded);
        }
        let difference = settlement.total.checked_sub(settled.total);
        let left = difference.and_then(|difference| row.credits.checked_sub(difference));
        let (Some(difference), Some(left), true) =
            (difference, left, settlement.seq == settled.seq + 1)
        else {
            return FactOutcome::Refused(Refusal::Contradiction);
        };
        row.credits = left;
        row.version = row.version.next();
        row.last_instant = row.last_instant.max(settlement.at);
        session.recorded.settled = Settled {
            seq: settlement.seq,
            total: settlement.total,
        };
        session.recorded.checkpoint = Checkpoint {
            at: settlement.at,
            served: settlement.served,
        };
        session.version = settlement.version.next();
        session.end = settlement.end.map(|reason| (settlement.at, reason));
        session.left_at_end = settlement.end.map(|_| left);
        if !difference.is_zero() {
            let entry = LedgerEntry {
                entry_id,
                at: settlement.at,
                kind: EntryKind::Usage,
                amount: CreditsChange::outgoing(difference),
                balance_after: left,
                session_id: Some(settlement.session),
                reason: None,
            };
            self.enter(settlement.user, settlement.version.next(), entry);
        }
        FactOutcome::Recorded
    }

    fn adjust(&mut self, adjustment: Adjustment) -> Result<Adjusted, AdjustError> {
        let wallet = self
            .wallet(adjustment.user, None)
            .ok_or(AdjustError::UserUnknown)?;
        let key = (adjustment.user, adjustment.idempotency_key.clone());
        if let Some((kind, session, adjusted)) = self.adjusted.get(&key) {
            let (made, asked) = (adjusted.amount.get(), adjustment.amount.get());
            let is_same = (*kind, *session) == (adjustment.kind, adjustment.session)
                && (made == asked
                    || (adjustment.shortfall == Shortfall::TakeWhatIsFree && made > asked));
            return if is_same {
                Ok(Adjusted {
                    is_repeat: true,
                    ..*adjusted
                })
            } else {
                Err(AdjustError::KeyConflict)
            };
        }
        let at = self.instant(adjustment.at, &wallet);
        let amount = self.permitted(&adjustment, &wallet, at)?;
        let balance = wallet.credits;
        let balance_after = balance
            .checked_change(amount)
            .ok_or(AdjustError::MoreThanFits { balance })?;
        let (entry_id, notice) = (self.entry_id(), self.notices.len() as i64 + 1);
        let row = self
            .users
            .get_mut(&adjustment.user.get())
            .ok_or(AdjustError::UserUnknown)?;
        row.credits = balance_after;
        row.version = row.version.next();
        row.last_instant = row.last_instant.max(at);
        let version = row.version;
        let entry = LedgerEntry {
            entry_id,
            at,
            kind: adjustment.kind,
            amount,
            balance_after,
            session_id: adjustment.session,
            reason: Some(adjustment.reason),
        };
        self.enter(adjustment.user, version, entry);
        self.notices.push(Notice {
            id: notice,
            user: adjustment.user,
        });
        let adjusted = Adjusted {
            entry: entry_id,
            at,
            amount,
            balance_after,
            is_repeat: false,
        };
        self.adjusted
            .insert(key, (adjustment.kind, adjustment.session, adjusted));
        Ok(adjusted)
    }

    /// From when it counts what a writer does at `now` by its own clock: no later than the runs prove.
    fn instant(&self, now: UnixMillis, wallet: &WalletRecord) -> UnixMillis {
        let current = || self.runs.iter().filter(|row| row.is_current);
        let serves = |row: &&RunRow| wallet.live.iter().any(|live| live.node == row.run.node);
        if let Some(proved) = current().filter(serves).map(RunRow::proved).max() {
            return proved;
        }
        let proved = current().map(RunRow::proved).max();
        let proved = proved.unwrap_or(UnixMillis::EPOCH);
        now.max(wallet.last_instant).min(proved)
    }

    /// What may be moved: a revoke takes no more than is free, and all refunds of a session give no
    /// more than it has cost.
    fn permitted(
        &self,
        adjustment: &Adjustment,
        wallet: &WalletRecord,
        at: UnixMillis,
    ) -> Result<CreditsChange, AdjustError> {
        if adjustment.kind == EntryKind::Revoke {
            let free = self.free(wallet, at);
            if free.checked_change(adjustment.amount).is_none() {
                let takes_less =
                    adjustment.shortfall == Shortfall::TakeWhatIsFree && !free.is_zero();
                return if takes_less {
                    Ok(CreditsChange::outgoing(free))
                } else {
                    Err(AdjustError::MoreThanFree { free })
                };
            }
        }
        if adjustment.kind == EntryKind::Refund {
            let session = adjustment.session.ok_or(AdjustError::Nonsense)?;
            let row = self.sessions.get(&session);
            let row = row.filter(|row| row.user == adjustment.user);
            let spent = row.ok_or(AdjustError::SessionUnknown)?.recorded.settled;
            let refunds = self.ledger.iter().filter(|(_, _, entry)| {
                entry.kind == EntryKind::Refund && entry.session_id == Some(session)
            });
            let refunded = refunds.map(|(_, _, entry)| entry.amount.get()).sum();
            let (spent, refunded) = (spent.total, Credits::new(refunded).unwrap());
            if refunded.get() + adjustment.amount.get() > spent.get() {
                return Err(AdjustError::MoreThanSpent { spent, refunded });
            }
        }
        Ok(adjustment.amount)
    }

    /// What the wallet has at `at` that its sessions neither used nor hold, if they run on until then.
    fn free(&self, wallet: &WalletRecord, at: UnixMillis) -> Credits {
        let recorded: Vec<RecordedSession> = wallet
            .live
            .iter()
            .map(|live| live.session.clone())
            .collect();
        let node = wallet.live.first().map(|live| &live.node);
        let runs = self.runs.iter().filter(|row| Some(&row.run.node) == node);
        let mut runs: Vec<Run> = runs.map(RunRow::recorded).collect();
        if let Some(current) = runs.last_mut() {
            current.to = UnixMillis::MAX;
        }
        let (user, version, credits) = (wallet.user, wallet.version, wallet.credits);
        let mut wallet = Wallet::recovered(
            user,
            version,
            credits,
            &recorded,
            &wallet.since_checkpoints,
            &runs,
            at,
        );
        wallet.advance(at);
        wallet.free()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn lanes(&self) -> Lanes {
        Lanes::new(3).unwrap()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.up().map(|_| ())
    }

    async fn node_time(&self, node: &NodeName) -> Result<Option<NodeTime>, StoreError> {
        let data = self.up()?;
        let last = data.runs.iter().rfind(|row| row.run.node == *node);
        Ok(last.map(|row| NodeTime {
            latest: row.proved(),
            lead: row.lead,
        }))
    }

    async fn begin_run(
        &self,
        node: &NodeName,
        process: &ProcessId,
        now: ClockReading,
        policy: ResumePolicy,
    ) -> Result<NodeRun, StoreError> {
        Ok(self.up()?.begin_run(node, process, now, policy))
    }

    async fn next_run(
        &self,
        run: &NodeRun,
        cut: UnixMillis,
        now: ClockReading,
        policy: ResumePolicy,
    ) -> Result<NodeRun, StoreError> {
        let fate = self.fate().await?;
        let mut data = self.up()?;
        let current = data
            .runs
            .iter_mut()
            .find(|row| row.run.node == run.node && row.is_current)
            .ok_or(StoreError::Superseded)?;
        let next = if current.run.epoch == run.epoch {
            current.alive_at = current.alive_at.max(cut);
            data.begin_run(&run.node, &run.process, now, policy)
        } else if current.run.epoch == run.epoch + 1 && current.run.process == run.process {
            current.run.clone()
        } else {
            return Err(StoreError::Superseded);
        };
        if fate == Fate::ReplyLost {
            return Err(unknown());
        }
        Ok(next)
    }

    async fn earlier_runs(&self, run: &NodeRun, _: UnixMillis) -> Result<Vec<Run>, StoreError> {
        Ok(self.up()?.runs_before(run))
    }

    async fn live_wallets(
        &self,
        node: &NodeName,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<WalletRecord>, StoreError> {
        let data = self.up()?;
        let mut users: Vec<UserId> = data
            .sessions
            .values()
            .filter(|session| session.node == *node && session.end.is_none())
            .map(|session| session.user)
            .filter(|user| after.is_none_or(|after| *user > after))
            .collect();
        users.sort_unstable();
        users.dedup();
        users.truncate(limit as usize);
        Ok(users
            .into_iter()
            .filter_map(|user| data.wallet(user, None))
            .collect())
    }

    async fn take_session_ids(&self, count: u32) -> Result<Range<i64>, StoreError> {
        self.fate().await?;
        let mut data = self.up()?;
        let first = data.next_session + 1;
        data.next_session += i64::from(count);
        Ok(first..first + i64::from(count))
    }

    async fn record(
        &self,
        run: &NodeRun,
        alive_at: Option<UnixMillis>,
        recordings: &[Recording],
    ) -> Result<Vec<FactOutcome>, StoreError> {
        let fate = self.fate().await?;
        let delay = *self.write_delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        if self.is_read_only.load(Ordering::SeqCst) {
            return Err(StoreError::TimedOut(Duration::ZERO));
        }
        let sabotage = *self.sabotage.lock().unwrap();
        let mut data = self.up()?;
        let mut fates = self.batch_fates.lock().unwrap();
        let batch_fate = (!recordings.is_empty())
            .then(|| fates.pop_front())
            .flatten();
        drop(fates);
        if batch_fate == Some(BatchFate::Refused) {
            return Err(StoreError::Refused(sqlx::Error::Encode("refused".into())));
        }
        let current = data.runs.iter_mut().find(|row| {
            let may_write = row.is_current || sabotage == Some(Sabotage::EpochsIgnored);
            row.run.node == run.node && row.run.epoch == run.epoch && may_write
        });
        let current = current.ok_or(StoreError::Superseded)?;
        current.alive_at = current.alive_at.max(alive_at.unwrap_or(UnixMillis::EPOCH));
        let instants = recordings.iter().map(|recording| recording.fact.at());
        current.last_instant = instants.fold(current.last_instant, UnixMillis::max);
        let outcomes = recordings
            .iter()
            .map(|recording| data.record(&run.node, recording, sabotage));
        let outcomes = outcomes.collect();
        if fate == Fate::ReplyLost || batch_fate == Some(BatchFate::Unknown) {
            return Err(unknown());
        }
        Ok(outcomes)
    }

    async fn kept_answer(
        &self,
        user: UserId,
        key: &IdempotencyKey,
        now: UnixMillis,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        self.fate().await?;
        Ok(self.up()?.kept(user, key, now))
    }

    async fn purge_keys(&self, expired_at: UnixMillis, limit: u32) -> Result<u64, StoreError> {
        self.fate().await?;
        let mut data = self.up()?;
        let expired = data.keys.iter().filter(|(_, row)| row.at <= expired_at);
        let expired: Vec<_> = expired
            .map(|(name, _)| name.clone())
            .take(limit as usize)
            .collect();
        for name in &expired {
            data.keys.remove(name);
        }
        Ok(expired.len() as u64)
    }

    async fn balances(&self, users: &[UserId]) -> Result<Vec<Option<RecordedBalance>>, StoreError> {
        self.fate().await?;
        let data = self.up()?;
        let balance = |user: &UserId| {
            let wallet = data.wallet(*user, None)?;
            let (credits, version) = (wallet.credits, wallet.version);
            Some(RecordedBalance { credits, version })
        };
        Ok(users.iter().map(balance).collect())
    }

    async fn wallets(
        &self,
        asked: &[WalletAsked],
        unpaid_since: Option<UnixMillis>,
    ) -> Result<Vec<Option<WalletReading>>, StoreError> {
        self.fate().await?;
        let data = self.up()?;
        let reading = |asked: &WalletAsked| {
            Some(WalletReading {
                record: data.wallet(asked.user, Some(asked.since))?,
                unpaid_ends: unpaid_since
                    .map_or(Vec::new(), |since| data.unpaid_ends(asked.user, since)),
            })
        };
        Ok(asked.iter().map(reading).collect())
    }

    async fn adjust(&self, adjustment: Adjustment) -> Result<Adjusted, AdjustError> {
        let fate = self.fate().await?;
        let adjusted = self.up()?.adjust(adjustment)?;
        if fate == Fate::ReplyLost {
            return Err(unknown().into());
        }
        Ok(adjusted)
    }

    async fn standing(&self, _: UserId, _: UnixMillis) -> Result<Option<Standing>, StoreError> {
        Err(not_kept())
    }

    async fn notices(&self, after: Option<i64>, limit: u32) -> Result<Vec<Notice>, StoreError> {
        let data = self.up()?;
        let later = data
            .notices
            .iter()
            .filter(|notice| notice.id > after.unwrap_or(0));
        Ok(later.take(limit as usize).copied().collect())
    }

    async fn latest_notice(&self) -> Result<i64, StoreError> {
        Ok(self.up()?.notices.len() as i64)
    }

    async fn user(&self, user: UserId) -> Result<Option<UserRecord>, StoreError> {
        Ok(self.up()?.users.get(&user.get()).map(|row| UserRecord {
            id: user,
            email: row.email.clone(),
            password_hash: None,
            credits: row.credits,
            created_at: row.created_at,
            token_generation: TokenGeneration::default(),
            account_key: AccountKey::random(),
        }))
    }

    async fn session(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let data = self.up()?;
        let row = data.sessions.get(&session).filter(|row| row.user == user);
        Ok(row.map(|row| row.record(session)))
    }

    async fn create_user(&self, _: NewUser) -> Result<UserRecord, CreateUserError> {
        Err(not_kept().into())
    }

    async fn create_fixture_users(
        &self,
        _: u32,
        _: Credits,
        _: UnixMillis,
    ) -> Result<Vec<UserId>, StoreError> {
        Err(not_kept())
    }

    async fn user_by_email(&self, _: &str) -> Result<Option<UserRecord>, StoreError> {
        Err(not_kept())
    }

    async fn users(&self, _: Option<UserId>, _: u32) -> Result<Vec<UserRecord>, StoreError> {
        Err(not_kept())
    }

    async fn find_users(
        &self,
        _: &str,
        _: Option<UserId>,
        _: u32,
    ) -> Result<Vec<UserRecord>, StoreError> {
        Err(not_kept())
    }

    async fn live_sessions(
        &self,
        _: Option<(UserId, SlotNumber)>,
        _: u32,
    ) -> Result<Vec<LiveSessionOf>, StoreError> {
        Err(not_kept())
    }

    async fn set_password(&self, _: NewPassword) -> Result<bool, StoreError> {
        Err(not_kept())
    }

    async fn token_standings(
        &self,
        _: &[UserId],
        _: UnixMillis,
    ) -> Result<Vec<Option<TokenStanding>>, StoreError> {
        Err(not_kept())
    }

    async fn is_token_revoked(&self, _: &str) -> Result<bool, StoreError> {
        Err(not_kept())
    }

    async fn void_tokens(&self, _: UserId, _: UnixMillis) -> Result<bool, StoreError> {
        Err(not_kept())
    }

    async fn revoke_token(
        &self,
        _: UserId,
        _: RevokedToken,
        _: UnixMillis,
    ) -> Result<(), StoreError> {
        Err(not_kept())
    }

    async fn purge_revoked_tokens(&self, _: UnixMillis, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn purge_notices(&self, _: UnixMillis, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn sessions_by_id(
        &self,
        _: Option<SessionId>,
        _: u32,
    ) -> Result<Vec<OldSession>, StoreError> {
        Err(not_kept())
    }

    async fn delete_unpaid_sessions(
        &self,
        _: &[SessionId],
        _: UnixMillis,
    ) -> Result<u64, StoreError> {
        Err(not_kept())
    }

    async fn ended_runs(&self) -> Result<Vec<RunSpan>, StoreError> {
        Err(not_kept())
    }

    async fn delete_runs(&self, _: &[RunSpan]) -> Result<u64, StoreError> {
        Err(not_kept())
    }

    async fn begin_erasure(&self, _: UserId, _: UnixMillis) -> Result<bool, StoreError> {
        Err(not_kept())
    }

    async fn cancel_erasure(&self, _: UserId, _: UnixMillis) -> Result<bool, StoreError> {
        Err(not_kept())
    }

    async fn erase_user(&self, _: Erasure) -> Result<(), EraseError> {
        Err(not_kept().into())
    }

    async fn sessions(
        &self,
        _: UserId,
        _: Option<SessionCursor>,
        _: u32,
    ) -> Result<Vec<SessionRecord>, StoreError> {
        Err(not_kept())
    }

    async fn ledger(
        &self,
        _: UserId,
        _: Option<EntryId>,
        _: u32,
    ) -> Result<Vec<LedgerEntry>, StoreError> {
        Err(not_kept())
    }

    async fn audit(&self, _: Option<UserId>, _: AuditLimits) -> Result<AuditPage, StoreError> {
        Err(not_kept())
    }

    async fn count_users(&self) -> Result<u64, StoreError> {
        Err(not_kept())
    }

    async fn repair(
        &self,
        _: UserId,
        _: RepairMode,
        _: UnixMillis,
    ) -> Result<Repaired, StoreError> {
        Err(not_kept())
    }

    async fn close(&self) {}
}

/// The session that was answered about, and whether it started.
fn used_for(answer: &Answer) -> (SessionId, bool) {
    match answer {
        Answer::Started(started) => (started.session, true),
        Answer::Stopped(stopped) => (stopped.session, false),
    }
}

/// What a fact's keys are kept for: the session, and whether it started.
fn answered(fact: &Fact) -> Option<(SessionId, bool)> {
    match fact {
        Fact::Opening(opening) => Some((opening.session, true)),
        Fact::Settlement(settlement) => settlement.end.map(|_| (settlement.session, false)),
    }
}

fn lost() -> StoreError {
    StoreError::TimedOut(Duration::ZERO)
}

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown(Box::new(lost()))
}

fn not_kept() -> StoreError {
    StoreError::Corrupt("the store in memory keeps no such thing".to_owned())
}
