//! A store in memory, for tests on tokio's paused clock. It keeps the rules of the real stores for
//! wallets, sessions, runs and the ledger; it has no passwords, no tokens and no audit.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use billing::{
    BalanceChange, Checkpoint, Opening, RecordedSession, Settled, Settlement, Span, WalletVersion,
};
use engine::{
    engine::{Started, Stopped},
    facts::{Fact, FactOutcome, LiveSession, NodeName, NodeRun, Recording, Refusal, WalletRecord},
    keys::{Answer, IdempotencyKey, KEPT_FOR, KeptAnswer},
    store::{
        AdjustError, Adjusted, Adjustment, CreateUserError, NewUser, Notice, RevokedToken,
        SessionCursor, Store, StoreError, UserRecord, audit::AuditPage,
    },
};
use rand::{RngExt, rngs::StdRng};
use schema::{
    Credits, CreditsChange, EntryId, Millis, SessionId, UnixMillis, UserId,
    ledger::{EntryKind, LedgerEntry},
    session::{EndReason, SessionRecord},
};

/// The store. Its faults can be switched while it is used.
#[derive(Default)]
pub struct MemoryStore {
    data: Mutex<Data>,
    is_down: AtomicBool,
    is_read_only: AtomicBool,
    write_delay: Mutex<Duration>,
    faults: Mutex<Option<Faults>>,
    sabotage: Mutex<Option<Sabotage>>,
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
    adjusted: BTreeMap<(UserId, String), Adjusted>,
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
    end: Option<(UnixMillis, EndReason)>,
    left_at_end: Option<Credits>,
}

struct KeyRow {
    kept: KeptAnswer,
    at: UnixMillis,
}

struct RunRow {
    node: NodeName,
    epoch: i64,
    span: Span,
    is_current: bool,
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

    /// The greatest instant at which the node's current run was alive.
    pub fn alive_at(&self) -> UnixMillis {
        self.data()
            .runs
            .iter()
            .map(|run| run.span.to)
            .max()
            .unwrap()
    }

    /// What the session was settled for, one amount for each ledger entry.
    pub fn usage(&self, session: SessionId) -> Vec<i64> {
        let data = self.data();
        let of_session = data
            .ledger
            .iter()
            .filter(|(_, _, entry)| entry.session_id == Some(session));
        of_session
            .map(|(_, _, entry)| -entry.amount.get())
            .collect()
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
    fn wallet(&self, user: UserId, since: Option<WalletVersion>) -> Option<WalletRecord> {
        let row = self.users.get(&user.get())?;
        let of_user = self
            .sessions
            .values()
            .filter(|session| session.user == user && session.end.is_none());
        let from_outside = self.ledger.iter().filter(|(owner, version, entry)| {
            *owner == user
                && entry.kind != EntryKind::Usage
                && since.is_some_and(|since| *version > since)
        });
        Some(WalletRecord {
            user,
            version: row.version,
            credits: row.credits,
            last_instant: row.last_instant,
            live: of_user
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
        let own = self.answered(&recording.fact);
        let is_used_elsewhere = recording.keys.iter().any(|request| {
            let used = self.kept(user, &request.key, recording.at);
            used.is_some_and(|used| Some(used_for(&used.answer)) != own)
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

    /// What a fact's keys are kept for: the session, and whether it started.
    fn answered(&self, fact: &Fact) -> Option<(SessionId, bool)> {
        match fact {
            Fact::Opening(opening) => Some((opening.session, true)),
            Fact::Settlement(settlement) => settlement.end.map(|_| (settlement.session, false)),
        }
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
}

#[async_trait]
impl Store for MemoryStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.up().map(|_| ())
    }

    async fn latest_alive_at(&self) -> Result<Option<UnixMillis>, StoreError> {
        Ok(self.up()?.runs.iter().map(|run| run.span.to).max())
    }

    async fn begin_run(&self, node: &NodeName, now: UnixMillis) -> Result<NodeRun, StoreError> {
        let mut data = self.up()?;
        let mut started_at = now;
        for run in data.runs.iter_mut().filter(|run| run.node == *node) {
            run.is_current = false;
            started_at = started_at.max(UnixMillis::new(run.span.to.get() + 1).unwrap());
        }
        let epoch = data.runs.iter().filter(|run| run.node == *node).count() as i64 + 1;
        let span = Span {
            from: started_at,
            to: started_at,
        };
        data.runs.push(RunRow {
            node: node.clone(),
            epoch,
            span,
            is_current: true,
        });
        Ok(NodeRun {
            node: node.clone(),
            epoch,
            started_at,
        })
    }

    async fn earlier_runs(&self, run: &NodeRun, _: UnixMillis) -> Result<Vec<Span>, StoreError> {
        let data = self.up()?;
        Ok(data
            .runs
            .iter()
            .filter(|row| row.node == run.node && row.epoch < run.epoch)
            .map(|row| row.span)
            .collect())
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
        let current = data.runs.iter_mut().find(|row| {
            let may_write = row.is_current || sabotage == Some(Sabotage::EpochsIgnored);
            row.node == run.node && row.epoch == run.epoch && may_write
        });
        let current = current.ok_or(StoreError::Superseded)?;
        current.span.to = current.span.to.max(alive_at.unwrap_or(UnixMillis::EPOCH));
        let outcomes = recordings
            .iter()
            .map(|recording| data.record(&run.node, recording, sabotage));
        let outcomes = outcomes.collect();
        if fate == Fate::ReplyLost {
            return Err(lost());
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

    async fn wallet(
        &self,
        user: UserId,
        since: WalletVersion,
    ) -> Result<Option<WalletRecord>, StoreError> {
        self.fate().await?;
        Ok(self.up()?.wallet(user, Some(since)))
    }

    async fn adjust(&self, adjustment: Adjustment) -> Result<Adjusted, AdjustError> {
        let fate = self.fate().await?;
        let mut data = self.up()?;
        let key = (adjustment.user, adjustment.idempotency_key.clone());
        if let Some(adjusted) = data.adjusted.get(&key) {
            return Ok(Adjusted {
                is_repeat: true,
                ..*adjusted
            });
        }
        let alive_at = data
            .runs
            .iter()
            .filter(|run| run.is_current)
            .map(|run| run.span.to)
            .max();
        let (entry_id, notice) = (data.entry_id(), data.notices.len() as i64 + 1);
        let row = data
            .users
            .get_mut(&adjustment.user.get())
            .ok_or(AdjustError::UserUnknown)?;
        let at = adjustment
            .at
            .max(row.last_instant)
            .max(alive_at.unwrap_or(UnixMillis::EPOCH));
        let balance_after = row
            .credits
            .checked_change(adjustment.amount)
            .ok_or(AdjustError::OutOfRange)?;
        row.credits = balance_after;
        row.version = row.version.next();
        row.last_instant = at;
        let version = row.version;
        let entry = LedgerEntry {
            entry_id,
            at,
            kind: adjustment.kind,
            amount: adjustment.amount,
            balance_after,
            session_id: None,
            reason: Some(adjustment.reason),
        };
        data.enter(adjustment.user, version, entry);
        data.notices.push(Notice {
            id: notice,
            user: adjustment.user,
        });
        let adjusted = Adjusted {
            entry: entry_id,
            at,
            balance_after,
            is_repeat: false,
        };
        data.adjusted.insert(key, adjusted);
        if fate == Fate::ReplyLost {
            return Err(lost().into());
        }
        Ok(adjusted)
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
            tokens_valid_from: UnixMillis::EPOCH,
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

    async fn set_password(&self, _: UserId, _: String, _: UnixMillis) -> Result<bool, StoreError> {
        Err(not_kept())
    }

    async fn revoke_token(&self, _: RevokedToken) -> Result<(), StoreError> {
        Err(not_kept())
    }

    async fn revoked_tokens(&self, _: UnixMillis) -> Result<Vec<RevokedToken>, StoreError> {
        Err(not_kept())
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

    async fn audit(&self, _: Option<UserId>, _: u32) -> Result<AuditPage, StoreError> {
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

fn lost() -> StoreError {
    StoreError::TimedOut(Duration::ZERO)
}

fn not_kept() -> StoreError {
    StoreError::Corrupt("the store in memory keeps no such thing".to_owned())
}
