//! The store's one implementation: which function answers which call, and as what unit.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use billing::{Run, SlotNumber};
use schema::{
    Credits, EntryId, SessionId, UnixMillis, UserId, ledger::LedgerEntry, session::SessionRecord,
};
use tokio::sync::mpsc;

use super::{
    AdjustError, Adjusted, Adjustment, CreateUserError, EraseError, Erasure, LiveSessionOf,
    NewPassword, NewUser, Notice, OldSession, Resumption, RevokedToken, RunSpan, SessionCursor,
    Standing, Store, StoreError, StoreLocation, StoreSettings, TokenStanding, UserRecord, accounts,
    audit::{self, AuditLimits, AuditPage, RepairMode, Repaired},
    calls::{self, CallError, Pools, Work},
    connection::Unit,
    erasure,
    errors::Blame,
    fixture::{self, Filled, PastRows, PastSize, Rows},
    history, journal, postgres, restored, retention, runs,
    setbacks::{self, Acknowledged},
    sqlite, tokens, wallets,
};
use crate::{
    clock::ClockReading,
    facts::{
        FIRST_READING, FactOutcome, NodeName, NodeRun, NodeTime, ProcessId, RecordedBalance,
        Recording, ResumePolicy, WalletAsked, WalletReading, WalletRecord,
    },
    keys::{IdempotencyKey, KeptAnswer},
    lanes::Lanes,
    metrics::StoreErrors,
};

/// How long auditing a page of users may take: one of them may have millions of rows.
const AUDIT_TIMEOUT: Duration = Duration::from_mins(15);
/// How long voiding everybody's tokens may take: a million users are some seconds.
const SKIP_TIMEOUT: Duration = Duration::from_mins(15);
/// How long filling a database with a past may take.
const FILL_TIMEOUT: Duration = Duration::from_hours(12);
/// How many rows of a kind a repair has in memory at once.
const REPAIR_ROWS: u32 = 20_000;

/// An open database.
#[derive(Debug)]
pub struct Database {
    pools: Pools,
    lanes: Lanes,
    call_timeout: Duration,
    errors: StoreErrors,
    acknowledged: Acknowledged,
}

impl Database {
    /// Opens the database, and brings its schema up to date.
    pub async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let pools = match &settings.location {
            StoreLocation::Postgres(address) => {
                Pools::Postgres(postgres::open(address, settings).await?)
            }
            StoreLocation::Sqlite(path) => Pools::Sqlite(sqlite::open(path, settings).await?),
        };
        Ok(Self {
            lanes: match &pools {
                Pools::Postgres(_) => settings.writers,
                Pools::Sqlite(_) => Lanes::ONE,
            },
            pools,
            call_timeout: settings.call_timeout,
            errors: StoreErrors::default(),
            acknowledged: Acknowledged::default(),
        })
    }

    /// Makes a database that was restored from a backup fit to serve: skips `ids` ids of sessions, users
    /// and ledger entries, since clients may know those by now, voids all tokens,
    /// and shuts out every process that still writes to it. May be repeated, which skips further. `wall` is
    /// what this machine's wall clock says: that it is behind what is recorded is accepted from then on.
    pub async fn skip_ahead(
        &self,
        ids: u32,
        wall: UnixMillis,
        policy: ResumePolicy,
    ) -> Result<Resumption, StoreError> {
        self.call_for(SKIP_TIMEOUT, Unit::Write, move |connection| {
            Box::pin(restored::skip_ahead(connection, ids, wall, policy))
        })
        .await
    }

    /// Gives an unused database a past for load tests, all of it or nothing; see [`fixture`]. The past
    /// ends when every sender of `rows` is gone.
    pub async fn fill(
        &self,
        size: PastSize,
        rows: mpsc::Receiver<PastRows>,
    ) -> Result<Filled, StoreError> {
        let rows = Rows::new(rows);
        self.call_for(FILL_TIMEOUT, Unit::Write, move |connection| {
            Box::pin(fixture::fill(connection, size, rows))
        })
        .await
    }

    /// One statement that reads.
    async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: CallError + Send + 'static,
        F: Work<T, E>,
    {
        self.call_for(self.call_timeout, Unit::OneRead, work).await
    }

    /// Statements that read one state of the database.
    async fn snapshot<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: CallError + Send + 'static,
        F: Work<T, E>,
    {
        self.call_for(self.call_timeout, Unit::Snapshot, work).await
    }

    /// Statements that write, all or none. Once this process has a run, they are made only in a database
    /// that has it too, as far as it is known.
    async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: CallError + Send + 'static,
        F: Work<T, E>,
    {
        let acknowledged = match &self.pools {
            Pools::Postgres(_) => self.acknowledged.current(),
            // A file that was replaced is told by itself.
            Pools::Sqlite(_) => None,
        };
        let Some((run, known)) = acknowledged else {
            return self.write_anyway(work).await;
        };
        self.write_anyway(move |connection| {
            Box::pin(async move {
                setbacks::check(connection, &run, &known).await?;
                work(connection).await
            })
        })
        .await
    }

    /// Statements that write, all or none.
    async fn write_anyway<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: CallError + Send + 'static,
        F: Work<T, E>,
    {
        self.call_for(self.call_timeout, Unit::Write, work).await
    }

    /// Records that the run was alive at `alive_at`, or only finds whether it may write.
    async fn keep_alive(
        &self,
        run: &NodeRun,
        alive_at: Option<UnixMillis>,
    ) -> Result<(), StoreError> {
        let (held, known) = (run.clone(), self.acknowledged.of(run));
        self.write_anyway(move |connection| {
            Box::pin(async move { runs::keep_alive(connection, &held, alive_at, &known).await })
        })
        .await?;
        if let Some(alive_at) = alive_at {
            self.acknowledged.alive_at(run, alive_at);
        }
        Ok(())
    }

    /// Records the facts, of which there are some, and tells what became of each.
    async fn record_facts(
        &self,
        run: &NodeRun,
        recordings: &[Recording],
    ) -> Result<Vec<FactOutcome>, StoreError> {
        // Any lane would do: those who record at the same time take each its own.
        let lane = recordings.first();
        let lane = lane.map_or(0, |recording| self.lanes.of(recording.fact.user()));
        let outcomes = match &self.pools {
            Pools::Postgres(_) => self.record_at_once(run, lane, recordings).await?,
            Pools::Sqlite(_) => self.record_by_parts(run, lane, recordings.into()).await?,
        };
        if let Some(last_instant) = recordings.iter().map(|recording| recording.fact.at()).max() {
            self.acknowledged.recorded(run, lane, last_instant);
        }
        Ok(outcomes)
    }

    /// Records the facts in one transaction of several statements, and tells what became of each.
    async fn record_by_parts(
        &self,
        run: &NodeRun,
        lane: usize,
        recordings: Arc<[Recording]>,
    ) -> Result<Vec<FactOutcome>, StoreError> {
        let (run, known) = (run.clone(), self.acknowledged.of(run));
        // It checks the lane's row itself.
        self.write_anyway(move |connection| {
            Box::pin(journal::record(connection, run, lane, recordings, known))
        })
        .await
    }

    /// Records the facts in one statement, and the few that this is not for in a transaction after it.
    async fn record_at_once(
        &self,
        run: &NodeRun,
        lane: usize,
        recordings: &[Recording],
    ) -> Result<Vec<FactOutcome>, StoreError> {
        let recordings = Arc::<[Recording]>::from(recordings);
        let written = {
            let (run, known) = (run.clone(), self.acknowledged.of(run));
            let recordings = Arc::clone(&recordings);
            self.call_for(self.call_timeout, Unit::OneWrite, move |connection| {
                Box::pin(async move {
                    journal::at_once::record(connection, &run, lane, &recordings, &known).await
                })
            })
        };
        let written = match written.await {
            Ok(written) => written,
            // One of them can't be written at all: the others can, one after the other.
            Err(error) if error.blame() == Some(Blame::Call) => {
                return self.record_by_parts(run, lane, recordings).await;
            }
            Err(error) => return Err(error),
        };
        let is_left = |(position, _): &(usize, &Recording)| !written.contains(position);
        let left = recordings.iter().enumerate().filter(is_left);
        let left: Arc<[Recording]> = left.map(|(_, recording)| recording.clone()).collect();
        let told = if left.is_empty() {
            Vec::new()
        } else {
            self.record_by_parts(run, lane, left).await?
        };
        let mut told = told.into_iter();
        let outcomes = (0..recordings.len()).map(|position| {
            if written.contains(&position) {
                return Ok(FactOutcome::Recorded);
            }
            let outcome = told.next();
            outcome.ok_or_else(|| StoreError::Corrupt("a fact has no outcome".to_owned()))
        });
        outcomes.collect()
    }

    /// These wallets in their order, with all that is to know of them.
    async fn look_closely(
        &self,
        asked: Vec<WalletAsked>,
        unpaid_since: Option<UnixMillis>,
    ) -> Result<Vec<Option<WalletReading>>, StoreError> {
        self.snapshot(move |connection| Box::pin(wallets::wallets(connection, asked, unpaid_since)))
            .await
    }

    /// Leaves word that the database went back, if that is what the error says.
    async fn note_setback(&self, error: &StoreError) {
        if let (StoreError::WentBack, Some((run, known))) = (error, self.acknowledged.current()) {
            let noted = self
                .write_anyway(move |connection| Box::pin(setbacks::note(connection, run, known)));
            if let Err(error) = noted.await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "can't note that the database went back"
                );
            }
        }
    }

    /// Runs `work` in a task of its own, for no longer than `timeout`.
    async fn call_for<T, E, F>(&self, timeout: Duration, unit: Unit, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: CallError + Send + 'static,
        F: Work<T, E>,
    {
        let pools = self.pools.clone();
        let task = tokio::spawn(async move { calls::make(&pools, timeout, unit, work).await });
        match task.await {
            Ok(result) => result.inspect_err(|error| {
                if let Some(error) = E::of_store(error) {
                    self.errors.count(error);
                }
            }),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(StoreError::Unavailable(sqlx::Error::WorkerCrashed).into()),
        }
    }
}

#[async_trait]
impl Store for Database {
    fn errors(&self) -> StoreErrors {
        self.errors.clone()
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|connection| Box::pin(runs::ping(connection)))
            .await
    }

    async fn node_time(&self, node: &NodeName) -> Result<Option<NodeTime>, StoreError> {
        let node = node.clone();
        self.read(move |connection| {
            Box::pin(async move { runs::node_time(connection, &node).await })
        })
        .await
    }

    async fn begin_run(
        &self,
        node: &NodeName,
        process: &ProcessId,
        now: ClockReading,
        policy: ResumePolicy,
    ) -> Result<NodeRun, StoreError> {
        let (node, process, lanes) = (node.clone(), process.clone(), self.lanes);
        let begun = self.write_anyway(move |connection| {
            Box::pin(async move {
                setbacks::refuse_unmended(connection).await?;
                runs::begin(connection, node, process, now, policy, lanes).await
            })
        });
        begun
            .await
            .inspect(|run| self.acknowledged.begin(run, lanes))
    }

    async fn next_run(
        &self,
        run: &NodeRun,
        cut: UnixMillis,
        now: ClockReading,
        policy: ResumePolicy,
    ) -> Result<NodeRun, StoreError> {
        let (run, lanes) = (run.clone(), self.lanes);
        let next = self.write(move |connection| {
            Box::pin(runs::next(connection, run, cut, now, policy, lanes))
        });
        match next.await {
            Ok(run) => {
                self.acknowledged.begin(&run, lanes);
                Ok(run)
            }
            Err(error) => {
                self.note_setback(&error).await;
                Err(error)
            }
        }
    }

    async fn earlier_runs(&self, run: &NodeRun, since: UnixMillis) -> Result<Vec<Run>, StoreError> {
        let run = run.clone();
        self.read(move |connection| Box::pin(runs::earlier(connection, run, since)))
            .await
    }

    async fn live_wallets(
        &self,
        node: &NodeName,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<WalletRecord>, StoreError> {
        let node = node.clone();
        self.snapshot(move |connection| {
            Box::pin(wallets::live_wallets(connection, node, after, limit))
        })
        .await
    }

    async fn take_session_ids(&self, count: u32) -> Result<Range<i64>, StoreError> {
        self.write(move |connection| Box::pin(journal::take_session_ids(connection, count)))
            .await
    }

    async fn record(
        &self,
        run: &NodeRun,
        alive_at: Option<UnixMillis>,
        recordings: &[Recording],
    ) -> Result<Vec<FactOutcome>, StoreError> {
        let recorded = async {
            let outcomes = if recordings.is_empty() {
                Vec::new()
            } else {
                self.record_facts(run, recordings).await?
            };
            if alive_at.is_some() || recordings.is_empty() {
                self.keep_alive(run, alive_at).await?;
            }
            Ok(outcomes)
        };
        match recorded.await {
            Ok(outcomes) => Ok(outcomes),
            Err(error) => {
                self.note_setback(&error).await;
                Err(error)
            }
        }
    }

    async fn kept_answer(
        &self,
        user: UserId,
        key: &IdempotencyKey,
        now: UnixMillis,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let key = key.clone();
        self.read(move |connection| {
            Box::pin(journal::keys::kept_answer(connection, user, key, now))
        })
        .await
    }

    async fn purge_keys(&self, expired_at: UnixMillis, limit: u32) -> Result<u64, StoreError> {
        self.write(move |connection| Box::pin(journal::keys::purge(connection, expired_at, limit)))
            .await
    }

    async fn balances(&self, users: &[UserId]) -> Result<Vec<Option<RecordedBalance>>, StoreError> {
        let users = users.to_vec();
        self.read(move |connection| Box::pin(wallets::balances(connection, users)))
            .await
    }

    async fn wallets(
        &self,
        asked: &[WalletAsked],
        unpaid_since: Option<UnixMillis>,
    ) -> Result<Vec<Option<WalletReading>>, StoreError> {
        let asked = asked.to_vec();
        if matches!(self.pools, Pools::Sqlite(_)) {
            return self.look_closely(asked, unpaid_since).await;
        }
        let first = asked.iter().filter(|asked| asked.since == FIRST_READING);
        let first: Vec<i64> = first.map(|asked| asked.user.get()).collect();
        let seen = if first.is_empty() {
            HashMap::new()
        } else {
            self.read(move |connection| {
                Box::pin(wallets::at_first_sight(connection, first, unpaid_since))
            })
            .await?
        };
        let seen_of = |asked: &WalletAsked| {
            let reading = seen.get(&asked.user);
            reading.filter(|_| asked.since == FIRST_READING)
        };
        let left = asked.iter().filter(|asked| seen_of(asked).is_none());
        let left: Vec<WalletAsked> = left.copied().collect();
        let mut closer = if left.is_empty() {
            Vec::new()
        } else {
            self.look_closely(left, unpaid_since).await?
        }
        .into_iter();
        let readings = asked.iter().map(|asked| match seen_of(asked) {
            Some(reading) => Some(reading.clone()),
            None => closer.next().flatten(),
        });
        Ok(readings.collect())
    }

    async fn adjust(&self, adjustment: Adjustment) -> Result<Adjusted, AdjustError> {
        self.write(move |connection| Box::pin(wallets::adjust(connection, adjustment)))
            .await
    }

    async fn standing(
        &self,
        user: UserId,
        now: UnixMillis,
    ) -> Result<Option<Standing>, StoreError> {
        self.snapshot(move |connection| Box::pin(wallets::standing_of(connection, user, now)))
            .await
    }

    async fn notices(&self, after: Option<i64>, limit: u32) -> Result<Vec<Notice>, StoreError> {
        self.read(move |connection| Box::pin(wallets::notices(connection, after, limit)))
            .await
    }

    async fn latest_notice(&self) -> Result<i64, StoreError> {
        self.read(|connection| Box::pin(wallets::latest_notice(connection)))
            .await
    }

    async fn create_user(&self, user: NewUser) -> Result<UserRecord, CreateUserError> {
        self.write(move |connection| Box::pin(accounts::create(connection, user)))
            .await
    }

    async fn create_fixture_users(
        &self,
        count: u32,
        grant: Credits,
        now: UnixMillis,
    ) -> Result<Vec<UserId>, StoreError> {
        let mut users = Vec::new();
        let mut left = count;
        while left > 0 {
            let batch = left.min(accounts::FIXTURE_BATCH_MAX);
            let made = self
                .write(move |connection| {
                    Box::pin(accounts::create_fixtures(connection, batch, grant, now))
                })
                .await?;
            users.extend(made);
            left -= batch;
        }
        Ok(users)
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError> {
        if email.contains('\0') {
            // Nobody can have it, and no connection is needed to say so.
            return Ok(None);
        }
        let email = email.to_owned();
        self.read(move |connection| Box::pin(accounts::by_email(connection, email)))
            .await
    }

    async fn user(&self, user: UserId) -> Result<Option<UserRecord>, StoreError> {
        self.read(move |connection| Box::pin(accounts::by_id(connection, user)))
            .await
    }

    async fn users(
        &self,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<UserRecord>, StoreError> {
        self.read(move |connection| Box::pin(accounts::page(connection, after, limit)))
            .await
    }

    async fn find_users(
        &self,
        prefix: &str,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<UserRecord>, StoreError> {
        let prefix = prefix.to_owned();
        self.read(move |connection| Box::pin(accounts::find(connection, prefix, after, limit)))
            .await
    }

    async fn set_password(&self, password: NewPassword) -> Result<bool, StoreError> {
        self.write(move |connection| Box::pin(tokens::set_password(connection, password)))
            .await
    }

    async fn token_standings(
        &self,
        users: &[UserId],
        now: UnixMillis,
    ) -> Result<Vec<Option<TokenStanding>>, StoreError> {
        let users = users.to_vec();
        self.read(move |connection| Box::pin(tokens::standings(connection, users, now)))
            .await
    }

    async fn is_token_revoked(&self, token_id: &str) -> Result<bool, StoreError> {
        let token_id = token_id.to_owned();
        self.read(move |connection| Box::pin(tokens::is_revoked(connection, token_id)))
            .await
    }

    async fn void_tokens(&self, user: UserId, now: UnixMillis) -> Result<bool, StoreError> {
        self.write(move |connection| Box::pin(tokens::void(connection, user, now)))
            .await
    }

    async fn revoke_token(
        &self,
        user: UserId,
        token: RevokedToken,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.write(move |connection| Box::pin(tokens::revoke(connection, user, token, now)))
            .await
    }

    async fn purge_revoked_tokens(
        &self,
        expired_at: UnixMillis,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.write(move |connection| Box::pin(tokens::purge_revoked(connection, expired_at, limit)))
            .await
    }

    async fn begin_erasure(&self, user: UserId, now: UnixMillis) -> Result<bool, StoreError> {
        self.write(move |connection| {
            Box::pin(erasure::set_closing(connection, user, Some(now), now))
        })
        .await
    }

    async fn cancel_erasure(&self, user: UserId, now: UnixMillis) -> Result<bool, StoreError> {
        self.write(move |connection| Box::pin(erasure::set_closing(connection, user, None, now)))
            .await
    }

    async fn erase_user(&self, erasure: Erasure) -> Result<(), EraseError> {
        self.write(move |connection| Box::pin(erasure::erase(connection, erasure)))
            .await
    }

    async fn sessions(
        &self,
        user: UserId,
        before: Option<SessionCursor>,
        limit: u32,
    ) -> Result<Vec<SessionRecord>, StoreError> {
        self.read(move |connection| Box::pin(history::sessions(connection, user, before, limit)))
            .await
    }

    async fn live_sessions(
        &self,
        after: Option<(UserId, SlotNumber)>,
        limit: u32,
    ) -> Result<Vec<LiveSessionOf>, StoreError> {
        self.read(move |connection| Box::pin(history::live_sessions(connection, after, limit)))
            .await
    }

    async fn session(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<Option<SessionRecord>, StoreError> {
        self.read(move |connection| Box::pin(history::session(connection, user, session)))
            .await
    }

    async fn ledger(
        &self,
        user: UserId,
        before: Option<EntryId>,
        limit: u32,
    ) -> Result<Vec<LedgerEntry>, StoreError> {
        self.read(move |connection| Box::pin(history::ledger(connection, user, before, limit)))
            .await
    }

    async fn purge_notices(&self, before: UnixMillis, limit: u32) -> Result<u64, StoreError> {
        self.write(move |connection| Box::pin(retention::purge_notices(connection, before, limit)))
            .await
    }

    async fn sessions_by_id(
        &self,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OldSession>, StoreError> {
        self.read(move |connection| Box::pin(retention::sessions(connection, after, limit)))
            .await
    }

    async fn delete_unpaid_sessions(
        &self,
        sessions: &[SessionId],
        before: UnixMillis,
    ) -> Result<u64, StoreError> {
        let sessions = sessions.to_vec();
        self.write(move |connection| {
            Box::pin(retention::delete_unpaid(connection, sessions, before))
        })
        .await
    }

    async fn ended_runs(&self) -> Result<Vec<RunSpan>, StoreError> {
        self.read(|connection| Box::pin(retention::ended_runs(connection)))
            .await
    }

    async fn delete_runs(&self, runs: &[RunSpan]) -> Result<u64, StoreError> {
        let runs = runs.to_vec();
        self.write(move |connection| Box::pin(retention::delete_runs(connection, runs)))
            .await
    }

    async fn audit(
        &self,
        after: Option<UserId>,
        limits: AuditLimits,
    ) -> Result<AuditPage, StoreError> {
        self.call_for(AUDIT_TIMEOUT, Unit::Snapshot, move |connection| {
            Box::pin(audit::page(connection, after, limits))
        })
        .await
    }

    async fn count_users(&self) -> Result<u64, StoreError> {
        self.read(|connection| Box::pin(accounts::count(connection)))
            .await
    }

    async fn repair(
        &self,
        user: UserId,
        mode: RepairMode,
        now: UnixMillis,
    ) -> Result<Repaired, StoreError> {
        let unit = match mode {
            RepairMode::List => Unit::Snapshot,
            RepairMode::Apply => Unit::Write,
        };
        self.call_for(AUDIT_TIMEOUT, unit, move |connection| {
            Box::pin(audit::repair(connection, user, mode, now, REPAIR_ROWS))
        })
        .await
    }

    async fn close(&self) {
        // A pool waits for connections on loan, and one to a silent server may never come back.
        if tokio::time::timeout(self.call_timeout, self.pools.close())
            .await
            .is_err()
        {
            tracing::warn!("gave up waiting for the database's connections to close");
        }
    }
}
