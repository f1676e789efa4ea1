//! The wallet's state machine: a balance and the sessions that live on it.
//!
//! A wallet stands at an *instant*. [`Wallet::advance`] moves it on, ending the sessions whose next
//! interval can't be paid, each at the boundary where that happened and not when somebody noticed.
//! What a wallet decides is not yet recorded: [`Wallet::unrecorded_start`] and
//! [`Wallet::settlement_due`] say what is to be written, [`Wallet::start_recorded`] and
//! [`Wallet::settled`] take note that it was. Until then a decision may be taken anew, when it turns
//! out that somebody else changed the balance meanwhile ([`Wallet::rebase`]).
//!
//! At one instant the order is: charge the ended interval, add credits, begin the next interval or
//! end, then commands.

use schema::{Credits, CreditsChange, Millis, SessionId, UnixMillis, UserId, session::EndReason};

use crate::{Meter, Tariff, recovery::MeterTurn};

/// Counts the writes to a wallet. Every write carries the version that it was decided from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalletVersion(i64);

impl WalletVersion {
    /// The version with this number.
    pub const fn new(version: i64) -> Self {
        Self(version)
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The version after one more write.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Which of a user's places for a live session it takes. Each holds one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNumber(i32);

impl SlotNumber {
    /// The slot with this number.
    pub const fn new(slot: i32) -> Self {
        Self(slot)
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// How much of a session's charge is in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// How many settlements there were.
    pub seq: i64,
    /// What they moved, together.
    pub total: Credits,
}

/// How a session ended. Decided, and recorded by the session's last settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The instant it ended.
    pub at: UnixMillis,
    /// Why.
    pub reason: EndReason,
    /// What it cost in all.
    pub consumed: Credits,
    /// The time it was served for.
    pub served: Millis,
}

/// A live session, or one that ended and is not yet settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Its slot.
    pub slot: SlotNumber,
    /// Its tariff.
    pub tariff: Tariff,
    /// When it started.
    pub started_at: UnixMillis,
    /// Its served time.
    pub meter: Meter,
    /// What of its charge is in the ledger.
    pub settled: Settled,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// Whether its start is durable.
    pub is_recorded: bool,
}

/// The start of a session, to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Whose.
    pub user: UserId,
    /// The version that it was decided from.
    pub version: WalletVersion,
    /// The session's id.
    pub session: SessionId,
    /// Its slot.
    pub slot: SlotNumber,
    /// Its tariff.
    pub tariff: Tariff,
    /// When it starts.
    pub started_at: UnixMillis,
}

/// A session's charge so far, to be recorded. It is cumulative: recording it twice moves nothing
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Whose.
    pub user: UserId,
    /// The version that it was decided from.
    pub version: WalletVersion,
    /// The session.
    pub session: SessionId,
    /// Its number among the session's settlements, from 1.
    pub seq: i64,
    /// What the session has cost in all.
    pub total: Credits,
    /// The time it has been served for in all.
    pub served: Millis,
    /// The instant that both hold for.
    pub at: UnixMillis,
    /// Why the session ended at that instant, if it did.
    pub end: Option<EndReason>,
}

/// A change of the balance that somebody else wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceChange {
    /// The instant from which it counts.
    pub at: UnixMillis,
    /// What came in, or went out.
    pub amount: CreditsChange,
}

/// What the database says of a wallet, read because it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebase {
    /// The version now.
    pub version: WalletVersion,
    /// The balance in the ledger now.
    pub ledger_balance: Credits,
    /// The changes by others since the version that the wallet had, in the order of their versions.
    pub changes: Vec<BalanceChange>,
    /// The sessions that are live in the database, with what is settled of each.
    pub live: Vec<(SessionId, Settled)>,
}

/// Why a session can't start, in the order in which it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartRejection {
    /// The slot has a live session.
    #[error("a session is live already")]
    SessionActive,
    /// The slot's session has ended and is not yet recorded; try again once it is.
    #[error("the previous session is being settled")]
    Settling,
    /// The free credits don't cover the first interval.
    #[error("the free credits are fewer than the price of an interval")]
    InsufficientCredits,
}

/// Why a session can't be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopRejection {
    /// There is no such session, or its end is recorded.
    #[error("there is no live session")]
    NoActiveSession,
}

/// A user's wallet: the balance in the ledger and 0 to n sessions that live on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    user: UserId,
    version: WalletVersion,
    ledger_balance: Credits,
    instant: UnixMillis,
    /// Ordered by id.
    sessions: Vec<Session>,
}

impl Wallet {
    /// A wallet as recorded, at the instant `now`.
    pub fn new(
        user: UserId,
        version: WalletVersion,
        ledger_balance: Credits,
        now: UnixMillis,
        mut sessions: Vec<Session>,
    ) -> Self {
        sessions.sort_unstable_by_key(|session| session.id);
        Self {
            user,
            version,
            ledger_balance,
            instant: now,
            sessions,
        }
    }

    /// Whose it is.
    pub const fn user(&self) -> UserId {
        self.user
    }

    /// The version that its decisions are taken from.
    pub const fn version(&self) -> WalletVersion {
        self.version
    }

    /// The instant at which it stands.
    pub const fn instant(&self) -> UnixMillis {
        self.instant
    }

    /// Its sessions, ordered by id, with those that ended and are not yet settled.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// The session with this id.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.iter().find(|session| session.id == id)
    }

    /// The balance at the wallet's instant, before holds: what the ledger has, less what was charged
    /// since the settlements.
    pub fn balance(&self) -> Credits {
        self.less(
            self.sessions
                .iter()
                .map(|session| session.charge(self.instant)),
        )
    }

    /// The balance less the holds: what a new session, or an operator, may take.
    pub fn free(&self) -> Credits {
        self.less(
            self.sessions
                .iter()
                .map(|session| session.committed(self.instant)),
        )
    }

    /// The ledger's balance less what of `totals`, one for each session, is not settled. After
    /// [`Wallet::advance`] every total is covered; until then an uncovered one leaves nothing.
    fn less(&self, totals: impl Iterator<Item = Option<Credits>>) -> Credits {
        let left = totals.zip(&self.sessions).try_fold(
            i128::from(self.ledger_balance.get()),
            |left, (total, session)| {
                Some(left - i128::from(total?.get()) + i128::from(session.settled.total.get()))
            },
        );
        left.and_then(|left| i64::try_from(left).ok())
            .and_then(|left| Credits::new(left).ok())
            .unwrap_or(Credits::ZERO)
    }

    // --- transitions ---

    /// Moves on to `now`: sessions end whose next interval can't be paid. An instant before the
    /// wallet's own changes nothing.
    pub fn advance(&mut self, now: UnixMillis) {
        while let Some(at) = self.next_uncovered() {
            if at > now {
                break;
            }
            if !self.end_uncovered(at) {
                break;
            }
        }
        self.instant = self.instant.max(now);
    }

    /// Starts a session at `now`.
    pub fn start(
        &mut self,
        now: UnixMillis,
        id: SessionId,
        slot: SlotNumber,
        tariff: Tariff,
    ) -> Result<(), StartRejection> {
        self.advance(now);
        if let Some(session) = self.sessions.iter().find(|session| session.slot == slot) {
            return Err(if session.is_live() {
                StartRejection::SessionActive
            } else {
                StartRejection::Settling
            });
        }
        if self.free() < tariff.price() {
            return Err(StartRejection::InsufficientCredits);
        }
        let started_at = self.instant;
        let meter = Meter::running(Millis::ZERO, started_at);
        let settled = Settled::default();
        let session = Session {
            id,
            slot,
            tariff,
            started_at,
            meter,
            settled,
            end: None,
            is_recorded: false,
        };
        let place = self.sessions.partition_point(|other| other.id < id);
        self.sessions.insert(place, session);
        Ok(())
    }

    /// Stops the session at `now`. A session that has ended and is not yet recorded keeps that end,
    /// whoever caused it.
    pub fn stop(
        &mut self,
        now: UnixMillis,
        id: SessionId,
        reason: EndReason,
    ) -> Result<End, StopRejection> {
        self.advance(now);
        let instant = self.instant;
        let session = self
            .sessions
            .iter_mut()
            .find(|session| session.id == id)
            .ok_or(StopRejection::NoActiveSession)?;
        Ok(session.end(instant, reason))
    }

    /// Ends the session at its own start, for nothing: its start was recorded, but nobody knows.
    pub fn abandon(&mut self, id: SessionId) -> Result<End, StopRejection> {
        let session = self
            .sessions
            .iter_mut()
            .find(|session| session.id == id)
            .ok_or(StopRejection::NoActiveSession)?;
        session.end = None;
        Ok(session.end(session.started_at, EndReason::Engine))
    }

    /// Freezes every live session at `now`: time stops counting, holds stay.
    pub fn pause(&mut self, now: UnixMillis) {
        self.advance(now);
        let instant = self.instant;
        self.live_mut()
            .filter(|session| session.meter.is_running())
            .for_each(|session| session.meter.pause(instant));
    }

    /// Lets every live session run on from `now`.
    pub fn resume(&mut self, now: UnixMillis) {
        self.advance(now);
        let instant = self.instant;
        self.live_mut()
            .for_each(|session| session.meter.resume(instant));
    }

    /// Lets the session's meter run from `at`, or stand still.
    pub(crate) fn turn_meter(&mut self, id: SessionId, at: UnixMillis, turn: MeterTurn) {
        let Some(session) = self.live_mut().find(|session| session.id == id) else {
            return;
        };
        match turn {
            MeterTurn::On => session.meter.resume(at),
            MeterTurn::Off => session.meter.pause(at),
        }
    }

    /// Takes note that the session's start is durable, as the wallet's version `version`.
    pub fn start_recorded(&mut self, id: SessionId, version: WalletVersion) {
        self.version = version;
        if let Some(session) = self.sessions.iter_mut().find(|session| session.id == id) {
            session.is_recorded = true;
        }
    }

    /// Forgets a session whose start was refused: it never was.
    pub fn start_refused(&mut self, id: SessionId) {
        self.sessions
            .retain(|session| session.id != id || session.is_recorded);
    }

    /// Takes note that `settlement` is durable, as the wallet's version `version`. Returns how the
    /// session ended, if this was its last one; the session is gone then.
    pub fn settled(&mut self, settlement: &Settlement, version: WalletVersion) -> Option<End> {
        self.version = version;
        let place = self
            .sessions
            .iter()
            .position(|session| session.id == settlement.session)?;
        let session = self.sessions.get_mut(place)?;
        let difference = settlement.total.checked_sub(session.settled.total)?;
        self.ledger_balance = self.ledger_balance.checked_sub(difference)?;
        session.settled = Settled {
            seq: settlement.seq,
            total: settlement.total,
        };
        settlement.end.and_then(|_| self.sessions.remove(place).end)
    }

    /// Takes over what the database says, and takes every decision anew that is not recorded and
    /// could have come out otherwise. Returns the recorded sessions that are live in the database no
    /// longer: somebody else ended them.
    pub fn rebase(&mut self, facts: &Rebase) -> Vec<SessionId> {
        let now = self.instant;
        let mut ended_elsewhere = Vec::new();
        self.sessions.retain_mut(|session| {
            let live = facts.live.iter().find(|(id, _)| *id == session.id);
            if let Some((_, settled)) = live {
                session.settled = *settled;
                session.is_recorded = true;
            } else if session.is_recorded {
                ended_elsewhere.push(session.id);
            }
            live.is_some() || !session.is_recorded
        });
        self.version = facts.version;

        // The balance before the changes, so that each counts from its own instant.
        let before = facts
            .changes
            .iter()
            .fold(facts.ledger_balance.get(), |balance, change| {
                balance - change.amount.get()
            });
        self.ledger_balance = Credits::new(before).unwrap_or(facts.ledger_balance);
        for change in &facts.changes {
            self.change_balance(*change);
        }
        self.ledger_balance = facts.ledger_balance;
        self.advance(now);
        ended_elsewhere
    }

    /// Lets `change` count from its instant, and takes anew what was decided for later ones.
    fn change_balance(&mut self, change: BalanceChange) {
        let now = self.instant;
        let mut stops = Vec::new();
        for session in self
            .sessions
            .iter_mut()
            .filter(|session| session.end.is_some_and(|end| end.at >= change.at))
        {
            if let Some(end) = session.end.take()
                && end.reason != EndReason::Depleted
            {
                stops.push((end.at, session.id, end.reason));
            }
        }
        if let Some(balance) = self.ledger_balance.checked_change(change.amount) {
            self.ledger_balance = balance;
        }
        self.instant = change.at.min(now);
        stops.sort_unstable_by_key(|(at, id, _)| (*at, *id));
        for (at, id, reason) in stops {
            self.advance(at);
            if let Some(session) = self.sessions.iter_mut().find(|session| session.id == id) {
                session.end(at, reason);
            }
        }
        self.advance(now);
    }

    // --- what is to be recorded ---

    /// The start that is to be recorded next, if any.
    pub fn unrecorded_start(&self) -> Option<Opening> {
        self.sessions
            .iter()
            .find(|session| !session.is_recorded)
            .map(|session| Opening {
                user: self.user,
                version: self.version,
                session: session.id,
                slot: session.slot,
                tariff: session.tariff,
                started_at: session.started_at,
            })
    }

    /// The last settlement of a session that has ended, if there is one to record.
    pub fn settlement_due(&self) -> Option<Settlement> {
        self.sessions
            .iter()
            .filter(|session| session.is_recorded)
            .find_map(|session| {
                let end = session.end?;
                Some(self.settlement(session, end.consumed, end.served, end.at, Some(end.reason)))
            })
    }

    /// What a live session has cost at the wallet's instant, to be recorded in between; nothing
    /// where it has cost nothing since its last settlement.
    pub fn interim_settlement(&self, id: SessionId) -> Option<Settlement> {
        let session = self
            .session(id)
            .filter(|session| session.is_live() && session.is_recorded)?;
        let charge = session.charge(self.instant)?;
        let served = session.meter.served(self.instant);
        (charge > session.settled.total)
            .then(|| self.settlement(session, charge, served, self.instant, None))
    }

    fn settlement(
        &self,
        session: &Session,
        total: Credits,
        served: Millis,
        at: UnixMillis,
        end: Option<EndReason>,
    ) -> Settlement {
        let (user, version, seq) = (self.user, self.version, session.settled.seq + 1);
        Settlement {
            user,
            version,
            session: session.id,
            seq,
            total,
            served,
            at,
            end,
        }
    }

    // --- what will happen ---

    /// The instant at which the session will end by itself if nothing changes: nothing where it has
    /// ended, is paused, or lasts to the end of time.
    pub fn depletes_at(&self, id: SessionId) -> Option<UnixMillis> {
        self.session(id).filter(|session| session.is_live())?;
        let mut future = self.clone();
        loop {
            let at = future.next_uncovered()?;
            if !future.end_uncovered(at) {
                return None;
            }
            if let Some(end) = future.session(id)?.end {
                return Some(end.at);
            }
        }
    }

    /// The instant at which the session's interval in progress ends.
    pub fn next_boundary(&self, id: SessionId) -> Option<UnixMillis> {
        let session = self.session(id).filter(|session| session.is_live())?;
        session.boundary_after(self.instant)
    }

    /// The first instant at which some interval begins that the credits don't cover.
    fn next_uncovered(&self) -> Option<UnixMillis> {
        let funds = self.funds()?;
        let mut running = self
            .sessions
            .iter()
            .filter(|session| session.is_live() && session.meter.is_running());
        match (running.next(), running.next()) {
            (None, _) => None,
            (Some(session), None) => {
                let others = self.sessions.iter().filter(|other| other.id != session.id);
                let funds = others
                    .filter(|other| other.is_live())
                    .try_fold(funds, |funds, other| {
                        funds.checked_sub(other.committed(self.instant)?)
                    })?;
                session.meter.reaches(
                    session
                        .tariff
                        .served_after(session.tariff.intervals_covered(funds))?,
                )
            }
            (Some(_), Some(_)) => self.search_uncovered(funds),
        }
    }

    /// [`Wallet::next_uncovered`] for any number of sessions: what they have committed grows with
    /// time, so the instant is found by halving, in 53 steps.
    fn search_uncovered(&self, funds: Credits) -> Option<UnixMillis> {
        let is_covered = |at: UnixMillis| {
            let mut live = self.sessions.iter().filter(|session| session.is_live());
            live.try_fold(funds, |left, session| {
                left.checked_sub(session.committed(at)?)
            })
            .is_some()
        };
        let (mut covered, mut uncovered) = (0, UnixMillis::MAX.get());
        let instant = |millis| UnixMillis::new(millis).unwrap_or(UnixMillis::MAX);
        if is_covered(UnixMillis::MAX) {
            return None;
        }
        while uncovered - covered > 1 {
            let middle = covered + (uncovered - covered) / 2;
            if is_covered(instant(middle)) {
                covered = middle;
            } else {
                uncovered = middle;
            }
        }
        Some(instant(uncovered))
    }

    /// Ends, at the boundary `at`, the sessions whose next interval the credits don't cover. The
    /// lower id begins its interval first. Returns whether any ended.
    fn end_uncovered(&mut self, at: UnixMillis) -> bool {
        let Some(funds) = self.funds() else {
            return false;
        };
        let at_boundary = |session: &Session| session.is_live() && session.is_at_boundary(at);
        let mut left = Some(funds);
        for session in self.sessions.iter().filter(|session| session.is_live()) {
            let sum = if at_boundary(session) {
                session.completed(at)
            } else {
                session.committed(at)
            };
            left = left.and_then(|left| left.checked_sub(sum?));
        }
        let mut has_ended = false;
        for session in self
            .sessions
            .iter_mut()
            .filter(|session| at_boundary(session))
        {
            match left.and_then(|left| left.checked_sub(session.tariff.price())) {
                Some(rest) => left = Some(rest),
                None => {
                    session.end(at, EndReason::Depleted);
                    has_ended = true;
                }
            }
        }
        has_ended
    }

    /// What the live sessions may cost together, counted from their starts: the ledger's balance and
    /// what of them is settled, less what ended sessions have yet to settle.
    fn funds(&self) -> Option<Credits> {
        let funds =
            self.sessions
                .iter()
                .fold(i128::from(self.ledger_balance.get()), |funds, session| {
                    let consumed = session.end.map_or(0, |end| end.consumed.get());
                    funds + i128::from(session.settled.total.get()) - i128::from(consumed)
                });
        // More than any amount is as good as the greatest one.
        Credits::new(i64::try_from(funds.min(i128::from(Credits::MAX.get()))).ok()?).ok()
    }

    fn live_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sessions.iter_mut().filter(|session| session.is_live())
    }
}

impl Session {
    /// Whether it has not ended.
    pub const fn is_live(&self) -> bool {
        self.end.is_none()
    }

    /// What it has been charged at `now`, or nothing where no wallet could hold that much.
    pub fn charge(&self, now: UnixMillis) -> Option<Credits> {
        self.end.map_or_else(
            || self.tariff.charge(self.meter.served(now)),
            |end| Some(end.consumed),
        )
    }

    /// What it has been charged and holds at `now`.
    fn committed(&self, now: UnixMillis) -> Option<Credits> {
        self.end.map_or_else(
            || self.tariff.committed(self.meter.served(now)),
            |end| Some(end.consumed),
        )
    }

    /// What its completed intervals cost at `now`.
    fn completed(&self, now: UnixMillis) -> Option<Credits> {
        self.tariff
            .price_of(self.tariff.intervals_completed(self.meter.served(now)))
    }

    /// Whether an interval ends exactly at `at`. So it is at the start too, where one begins.
    fn is_at_boundary(&self, at: UnixMillis) -> bool {
        let served = self.meter.served(at);
        self.meter.is_running()
            && self
                .tariff
                .served_after(self.tariff.intervals_completed(served))
                == Some(served)
    }

    fn boundary_after(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.meter.reaches(
            self.tariff
                .served_after(self.tariff.intervals_begun(self.meter.served(now)))?,
        )
    }

    /// Ends at `at`, unless it has ended, and returns its end.
    ///
    /// At a depletion the next interval does not begin, and an end by the engine before anything was
    /// served is free; else the charge is what a live session would have.
    fn end(&mut self, at: UnixMillis, reason: EndReason) -> End {
        *self.end.get_or_insert_with(|| {
            let at = at.max(self.started_at);
            let served = self.meter.served(at);
            let is_next_begun = match reason {
                EndReason::Depleted => false,
                EndReason::Engine => served > Millis::ZERO,
                EndReason::User | EndReason::Admin => true,
            };
            let intervals = self.tariff.intervals_completed(served);
            let consumed = if is_next_begun {
                self.tariff.charge(served)
            } else {
                self.tariff.price_of(intervals)
            };
            // A live session's charge is always covered; an amount beyond all amounts can't be one.
            End {
                at,
                reason,
                consumed: consumed.unwrap_or(Credits::MAX),
                served,
            }
        })
    }
}
