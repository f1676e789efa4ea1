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

mod rebase;
mod record;
mod session;

use schema::{Credits, Millis, SessionId, UnixMillis, UserId, session::EndReason};

use self::rebase::{Stop, Switch};
pub use self::{
    record::{BalanceChange, Opening, Rebase, Settlement, WalletVersion},
    session::{End, Session, Settled, SlotNumber},
};
use crate::{Meter, Tariff, recovery::MeterTurn};

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
    /// Never below zero but in the midst of a [`Wallet::rebase`], which starts from before the changes
    /// with what settlements took since.
    ledger_balance: i64,
    instant: UnixMillis,
    /// Ordered by id.
    sessions: Vec<Session>,
    /// The pauses and resumptions that a change could still come before, in order.
    switches: Vec<Switch>,
    /// The first stop of each session, even where it was too late: it holds if a change undoes the
    /// end that it came after.
    stops: Vec<Stop>,
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
        let (ledger_balance, switches, stops) = (ledger_balance.get(), Vec::new(), Vec::new());
        Self {
            user,
            version,
            ledger_balance,
            instant: now,
            sessions,
            switches,
            stops,
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

    /// The balance at the wallet's instant as far as it can be told: without sessions whose start is not
    /// recorded, as they may turn out never to have been.
    pub fn recorded_balance(&self) -> Credits {
        self.less(self.sessions.iter().map(|session| {
            if session.is_recorded {
                session.charge(self.instant)
            } else {
                Some(Credits::ZERO)
            }
        }))
    }

    /// The balance less the holds: what a new session, or an operator, may take.
    pub fn free(&self) -> Credits {
        self.less(
            self.sessions
                .iter()
                .map(|session| session.committed(self.instant)),
        )
    }

    /// Whether its sessions have used and hold more than it has: by a fault, of ours or of whoever wrote to
    /// the database by another hand. Such a wallet serves nobody on; somebody is to look at it.
    pub fn is_overdrawn(&self) -> bool {
        let committed = self.sessions.iter();
        let committed = committed.map(|session| session.committed(self.instant));
        self.left(committed).is_none_or(|left| left < 0)
    }

    /// [`Wallet::left`], as an amount. Every transition leaves all totals covered; a wallet overdrawn
    /// by a fault has nothing left.
    fn less(&self, totals: impl Iterator<Item = Option<Credits>>) -> Credits {
        self.left(totals).map_or(Credits::ZERO, nearest)
    }

    /// The ledger's balance less what of `totals`, one for each session, is not settled; nothing
    /// where one is beyond all amounts.
    fn left(&self, totals: impl Iterator<Item = Option<Credits>>) -> Option<i128> {
        totals.zip(&self.sessions).try_fold(
            i128::from(self.ledger_balance),
            |left, (total, session)| {
                Some(left - i128::from(total?.get()) + i128::from(session.settled.total.get()))
            },
        )
    }

    // --- transitions ---

    /// Moves on to `now`: sessions end whose next interval can't be paid. An instant before the
    /// wallet's own changes nothing.
    pub fn advance(&mut self, now: UnixMillis) {
        while let Some(at) = self.next_uncovered().filter(|at| *at <= now) {
            self.end_uncovered(at);
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
        // Mostly it is the only one, and a vector's first push makes room for four.
        self.sessions.reserve_exact(1);
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
        let stop = Stop {
            session: id,
            at: self.instant,
            reason,
        };
        let session = self
            .sessions
            .iter_mut()
            .find(|session| session.id == id)
            .ok_or(StopRejection::NoActiveSession)?;
        if !self.stops.iter().any(|earlier| earlier.session == id) {
            self.stops.push(stop);
        }
        Ok(session.end(stop.at, reason))
    }

    /// Ends the session at its own start, for nothing: its start was recorded, but nobody knows.
    ///
    /// # Panics
    ///
    /// If something of the session is settled: that would have to be given back.
    pub fn abandon(&mut self, id: SessionId) -> Result<End, StopRejection> {
        let session = self
            .sessions
            .iter_mut()
            .find(|session| session.id == id)
            .ok_or(StopRejection::NoActiveSession)?;
        assert!(
            session.settled == Settled::default(),
            "session {id} was settled, and is to be taken back"
        );
        let (at, reason) = (session.started_at, EndReason::Engine);
        self.stops.retain(|stop| stop.session != id);
        self.stops.push(Stop {
            session: id,
            at,
            reason,
        });
        Ok(*session.end.insert(End {
            at,
            reason,
            consumed: Credits::ZERO,
            served: Millis::ZERO,
        }))
    }

    /// Freezes every live session at `now`: time stops counting, holds stay.
    pub fn pause(&mut self, now: UnixMillis) {
        self.advance(now);
        self.switch(MeterTurn::Off, |_| true);
    }

    /// Lets every live session run on from `now`.
    pub fn resume(&mut self, now: UnixMillis) {
        self.advance(now);
        self.switch(MeterTurn::On, |_| true);
    }

    fn switch(&mut self, to: MeterTurn, concerns: impl Fn(&Session) -> bool) {
        let at = self.instant;
        let mut before = Vec::new();
        for session in self.live_mut().filter(|session| concerns(session)) {
            let meter = session.meter;
            match to {
                MeterTurn::Off => session.meter.pause(at),
                MeterTurn::On => session.meter.resume(at),
            }
            if session.meter != meter {
                before.push((session.id, meter));
            }
        }
        // It holds too for sessions that have ended, if a change undoes their ends.
        if !self.sessions.is_empty() {
            self.switches.push(Switch { at, to, before });
        }
    }

    /// Lets the session's meter run from `at`, or stand still: for the replay of what is recorded.
    pub(crate) fn turn_meter(&mut self, id: SessionId, at: UnixMillis, turn: MeterTurn) {
        self.advance(at);
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
            let started_at = session.started_at;
            self.forget_commands_before(started_at);
        }
    }

    /// Forgets a session whose start was refused: it never was.
    pub fn start_refused(&mut self, id: SessionId) {
        self.sessions
            .retain(|session| session.id != id || session.is_recorded);
        self.forget_commands_before(UnixMillis::EPOCH);
    }

    /// Takes note that `settlement` is durable, as the wallet's version `version`. Returns how the
    /// session ended, if this was its last one; the session is gone then.
    ///
    /// # Panics
    ///
    /// If the settlement is below the one before it: credits would come from nowhere.
    pub fn settled(&mut self, settlement: &Settlement, version: WalletVersion) -> Option<End> {
        self.version = version;
        let place = self
            .sessions
            .iter()
            .position(|session| session.id == settlement.session)?;
        let session = self.sessions.get_mut(place)?;
        assert!(
            settlement.total >= session.settled.total,
            "session {} settled {} after {}",
            session.id,
            settlement.total,
            session.settled.total
        );
        self.ledger_balance -= settlement.total.get() - session.settled.total.get();
        session.settled = Settled {
            seq: settlement.seq,
            total: settlement.total,
        };
        let end = settlement.end.and_then(|_| self.sessions.remove(place).end);
        self.forget_commands_before(settlement.at);
        end
    }

    /// Forgets the commands before `at`, an instant that something was recorded with: no change that
    /// others write counts from before it. And those of sessions that are gone.
    fn forget_commands_before(&mut self, at: UnixMillis) {
        let Self {
            sessions,
            switches,
            stops,
            ..
        } = self;
        switches.retain(|switch| switch.at >= at && !sessions.is_empty());
        stops.retain(|stop| sessions.iter().any(|session| session.id == stop.session));
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

    /// The last settlement of a session that has ended, if there is one to record. Of several the one
    /// that ended first: a wallet's facts are recorded in the order of their instants, since what comes
    /// before a recorded one is taken for what always was.
    pub fn settlement_due(&self) -> Option<Settlement> {
        let recorded = self.sessions.iter().filter(|session| session.is_recorded);
        let ended = recorded.filter_map(|session| Some((session, session.end?)));
        let (session, end) = ended.min_by_key(|(session, end)| (end.at, session.id))?;
        Some(self.settlement(session, end.consumed, end.served, end.at, Some(end.reason)))
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
        if self
            .sessions
            .iter()
            .filter(|session| session.is_live())
            .count()
            == 1
        {
            // Of one alone, nothing that ends before it can leave it more.
            return self.next_uncovered();
        }
        let mut future = self.clone();
        loop {
            let at = future.next_uncovered()?;
            future.end_uncovered(at);
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
        let funds = self.funds();
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
        let instant = |millis| match UnixMillis::new(millis) {
            Ok(instant) => instant,
            Err(error) => unreachable!("between two instants is none: {error}"),
        };
        if !is_covered(UnixMillis::EPOCH) {
            return Some(UnixMillis::EPOCH);
        }
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

    /// Ends, at `at`, the sessions whose next interval the credits don't cover. The lower id begins
    /// its interval first. At an instant from [`Wallet::next_uncovered`] at least one ends.
    fn end_uncovered(&mut self, at: UnixMillis) {
        // No interval ends there only in a wallet that was overdrawn, by a fault, before its meters
        // began: no session may run on for nothing, so any may end.
        let is_fault = !self
            .sessions
            .iter()
            .any(|session| session.is_live() && session.is_at_boundary(at));
        let may_end = |session: &Session| {
            session.is_live()
                && session.meter.is_running()
                && (is_fault || session.is_at_boundary(at))
        };
        let mut left = Some(self.funds());
        for session in self.sessions.iter().filter(|session| session.is_live()) {
            let total = if may_end(session) {
                session.completed(at)
            } else {
                session.committed(at)
            };
            left = left.and_then(|left| left.checked_sub(total?));
        }
        // A start is a command, so it comes after the intervals that begin at its instant.
        for starts_here in [false, true] {
            let in_turn =
                |session: &Session| may_end(session) && (session.started_at == at) == starts_here;
            for session in self.sessions.iter_mut().filter(|session| in_turn(session)) {
                match left.and_then(|left| left.checked_sub(session.tariff.price())) {
                    Some(rest) => left = Some(rest),
                    None => _ = session.end(at, EndReason::Depleted),
                }
            }
        }
    }

    /// What the live sessions may cost together, counted from their starts: the ledger's balance and
    /// what of them is settled, less what ended sessions have yet to settle.
    fn funds(&self) -> Credits {
        nearest(
            self.sessions
                .iter()
                .fold(i128::from(self.ledger_balance), |funds, session| {
                    let consumed = session.end.map_or(0, |end| end.consumed.get());
                    funds + i128::from(session.settled.total.get()) - i128::from(consumed)
                }),
        )
    }

    fn live_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sessions.iter_mut().filter(|session| session.is_live())
    }
}

/// `amount`, or the amount nearest to it.
fn nearest(amount: i128) -> Credits {
    match i64::try_from(amount.max(0)).map(Credits::new) {
        Ok(Ok(credits)) => credits,
        Ok(Err(_)) | Err(_) => Credits::MAX,
    }
}
