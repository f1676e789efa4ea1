//! What a session shows of itself: to the hub, to callers and to the mirror.

use billing::Session;
use schema::{
    SessionId, UnixMillis,
    session::{ActiveSession, EndReason, LiveBalance},
    websocket::ServerMessage,
};

use super::{SessionState, WalletState};
use crate::update::{News, UserUpdate};

impl SessionState {
    /// Casts the balance, if it is another one than was told last.
    pub(super) fn tell_balance(&mut self) {
        if !matches!(self.wallet, WalletState::Ready(_)) {
            return;
        }
        let Some(balance) = self.balance() else {
            return;
        };
        // Of an end that is on its way only what it cost is news; the rest is told once it is durable.
        let is_ending =
            matches!(&self.wallet, WalletState::Ready(wallet) if wallet.settlement_due().is_some());
        let is_news = self.told.as_deref().is_none_or(|told| {
            let (told_of, of) = (told.session, balance.session);
            told.credits != balance.credits
                || (!is_ending && told_of.map(same_for_clients) != of.map(same_for_clients))
        });
        if is_news {
            self.told = Some(Box::new(balance));
            self.tell(News::Balance(balance));
        }
    }

    /// Says that little is left, once.
    pub(super) fn tell_low(&mut self) {
        let WalletState::Ready(wallet) = &self.wallet else {
            return;
        };
        if self.is_low_told {
            return;
        }
        let Some(session) = wallet
            .sessions()
            .iter()
            .find(|session| session.is_live() && session.is_recorded)
        else {
            return;
        };
        let Some(depletes_at) = wallet.depletes_at(session.id) else {
            return;
        };
        let left = depletes_at.since(wallet.instant());
        if left <= self.context.settings.low_balance {
            self.is_low_told = true;
            let seconds_left = left.get().div_euclid(1_000) + i64::from(left.get() % 1_000 > 0);
            let credits = wallet.balance();
            self.tell(News::Event(ServerMessage::BalanceLow {
                credits,
                seconds_left,
            }));
        }
    }

    /// The balance and the live session, at the wallet's instant. A session lives until its end is
    /// durable.
    pub(super) fn balance(&self) -> Option<LiveBalance> {
        let WalletState::Ready(wallet) = &self.wallet else {
            return None;
        };
        let abandoned = self
            .commands
            .abandoned
            .as_ref()
            .map(|abandoned| abandoned.session);
        let session = wallet
            .sessions()
            .iter()
            .find(|session| session.is_recorded && Some(session.id) != abandoned);
        // While time stands still no interval ends and no credits run out.
        let is_serving = self.context.timeline.is_serving();
        let session = session.and_then(|session| {
            Some(ActiveSession {
                session_id: session.id,
                started_at: session.started_at,
                consumed: session.charge(wallet.instant())?,
                credits_per_interval: session.tariff.price(),
                interval_ms: session.tariff.interval(),
                next_charge_at: wallet.next_boundary(session.id).filter(|_| is_serving),
                depletes_at: wallet
                    .depletes_at(session.id)
                    .filter(|_| is_serving)
                    .or_else(|| depleted_at(session)),
            })
        });
        Some(LiveBalance {
            credits: wallet.recorded_balance(),
            as_of: wallet.instant(),
            session,
        })
    }

    pub(super) fn live_balance_now(&mut self) -> Option<LiveBalance> {
        self.advance();
        self.balance()
    }

    pub(super) fn tell(&self, news: News) {
        // The hub is gone only when the process is going.
        let _stopped = self.context.updates.cast(UserUpdate {
            user: self.user,
            news,
        });
    }

    pub(super) fn mirror(&self) {
        if let (Some(mirror), Some(balance), WalletState::Ready(wallet)) =
            (&self.context.mirror, self.balance(), &self.wallet)
        {
            if self.is_closing && balance.session.is_none() {
                mirror.forget(self.user);
            } else {
                mirror.put(self.user, wallet.version(), balance);
            }
        }
    }
}

/// When the credits of a session ran out whose end is on its way.
fn depleted_at(session: &Session) -> Option<UnixMillis> {
    let end = session.end?;
    (end.reason == EndReason::Depleted).then_some(end.at)
}

/// What of a live session clients can't work out by themselves: not what it has cost so far, nor
/// when its interval ends.
fn same_for_clients(session: ActiveSession) -> (SessionId, Option<UnixMillis>) {
    (session.session_id, session.depletes_at)
}
