//! When a session wakes, and what time it is then.

use ractor::ActorRef;
use schema::UnixMillis;

use super::{Reload, SessionMessage, SessionState, WalletState, Watched};
use crate::timeline::Moment;

impl SessionState {
    /// A wake that was set for `at`.
    pub(super) fn wake(&mut self, at: UnixMillis) {
        self.alarm.rang(at);
        self.advance();
    }

    /// Lets the wallet move on to the time.
    pub(super) fn advance(&mut self) {
        let now = self.now();
        if let WalletState::Ready(wallet) = &mut self.wallet {
            wallet.advance(now);
        }
    }

    /// Asks to be woken at the next deadline, or before.
    pub(super) fn set_wake(&mut self, myself: &ActorRef<SessionMessage>) {
        if let Some(at) = self.next_deadline() {
            self.alarm.set(myself, at);
        }
    }

    /// The next instant at which there is something to do: a depletion, the low-balance mark, a
    /// settlement; and, if somebody watches, the end of the interval in progress.
    fn next_deadline(&self) -> Option<UnixMillis> {
        if !self.context.timeline.is_serving() {
            // It will be told when time goes on.
            return None;
        }
        let WalletState::Ready(wallet) = &self.wallet else {
            return None;
        };
        let session = wallet
            .sessions()
            .iter()
            .find(|session| session.is_live() && session.is_recorded)?;
        let depletes_at = wallet.depletes_at(session.id);
        let low_at = depletes_at
            .filter(|_| !self.is_low_told)
            .map(|at| at.saturating_sub(self.context.settings.low_balance));
        let boundary = (self.watched == Watched::Yes)
            .then(|| wallet.next_boundary(session.id))
            .flatten();
        // A settlement that is due while another fact is on its way is looked at after that one:
        // a wake for it now would only wake again at once.
        let settle_at = self.may_record().then_some(self.settle_at);
        [depletes_at, low_at, boundary, settle_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a fact may be sent to the journal: none is on its way, and the wallet is up to date.
    pub(super) fn may_record(&self) -> bool {
        !self.is_in_flight && self.reload == Reload::NotNeeded
    }

    /// The time. The wallet knows of every run that has begun by then.
    pub(super) fn now(&mut self) -> UnixMillis {
        let moment = self.context.timeline.moment();
        self.catch_up(moment)
    }

    /// Lets the wallet know of the runs that have begun by `moment`, and returns its instant. Whoever
    /// decides by a time has to come by here first: between two runs nothing is served.
    pub(super) fn catch_up(&mut self, moment: Moment) -> UnixMillis {
        if self.runs < moment.runs
            && let WalletState::Ready(wallet) = &mut self.wallet
        {
            let runs = self.context.timeline.runs().all;
            let ended = runs.iter().skip(self.runs.saturating_sub(1));
            for (before, run) in ended.zip(runs.iter().skip(self.runs)) {
                wallet.taken_over(before.to, run);
            }
            self.runs = runs.len();
        }
        moment.at
    }
}
