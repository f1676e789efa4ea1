//! How a session reads its wallet: for the first time, and again when somebody else wrote to it.

use std::sync::Arc;

use billing::{Session, Wallet, WalletVersion};
use ractor::ActorRef;
use schema::{Credits, session::EndReason, websocket::ServerMessage};

use super::{
    Reload, Request, SessionMessage, SessionState, WalletState, next_settlement, retry_later,
};
use crate::{
    batched::ReadError,
    engine::{BalanceError, StartError, StopError},
    facts::{WalletAsked, WalletReading, WalletRecord},
    recovery,
    reply::Reply,
    update::News,
};

impl SessionState {
    /// Reads the wallet in a task of its own, which casts the result.
    pub(super) fn load(&mut self, myself: &ActorRef<SessionMessage>, since: WalletVersion) {
        let (context, user, myself) = (Arc::clone(&self.context), self.user, myself.clone());
        self.reload = Reload::Underway;
        tokio::spawn(async move {
            let read = context.wallets.get(WalletAsked { user, since }).await;
            let _gone = myself.cast(SessionMessage::Loaded(read));
        });
    }

    pub(super) fn take_wallet(
        &mut self,
        myself: &ActorRef<SessionMessage>,
        result: Result<Option<WalletReading>, ReadError>,
    ) {
        let is_outdated = self.reload == Reload::UnderwayOutdated;
        self.reload = if is_outdated {
            Reload::Needed
        } else {
            Reload::NotNeeded
        };
        if let Ok(Some(read)) = &result {
            self.unpaid.learn(&read.unpaid_ends);
        }
        let result = result.map(|read| read.map(|read| read.record));
        match (result, &mut self.wallet) {
            (Ok(Some(record)), WalletState::Loading(_)) => {
                let (now, runs) = self.context.timeline.now_and_runs();
                self.is_closing = record.is_closing;
                self.adopt(recovery::rebuild(&record, &runs, now), runs.all.len());
                self.tell_added(&record);
                self.close();
            }
            (Ok(Some(record)), WalletState::Ready(_)) => {
                self.is_closing = record.is_closing;
                self.rebase(&record);
                self.close();
            }
            (Ok(None), WalletState::Loading(_)) => self.refuse_waiting(StartError::UserUnknown),
            (Ok(None), WalletState::Ready(_)) => {
                tracing::error!(
                    user = self.user.get(),
                    "the wallet is gone from the database"
                );
            }
            (Err(error), wallet) => {
                tracing::warn!(
                    user = self.user.get(),
                    error = error.as_ref() as &dyn std::error::Error,
                    "can't read a wallet"
                );
                if matches!(wallet, WalletState::Loading(_)) {
                    self.refuse_waiting(StartError::Unavailable);
                }
                for (_, reply) in self.commands.queued_starts.drain(..) {
                    let _gone = reply.send(Err(StartError::Unavailable));
                }
                self.reload = Reload::Underway;
                retry_later(myself.clone());
            }
        }
    }

    /// Ends what is live if the user is about to be erased.
    fn close(&mut self) {
        let is_live = |wallet: &Wallet| wallet.sessions().iter().any(Session::is_live);
        if self.is_closing && matches!(&self.wallet, WalletState::Ready(wallet) if is_live(wallet))
        {
            // Whoever asked for it looks at the database.
            let (reply, _nobody) = Reply::channel();
            self.stop(EndReason::Admin, None, reply);
        }
    }

    /// Takes `wallet` for its own, and then what waited for it.
    pub(super) fn adopt(&mut self, wallet: Wallet, runs: usize) {
        let live = wallet.sessions().iter().filter(|session| session.is_live());
        self.live.set(live.clone().count());
        let started_at = live.clone().next().map(|session| session.started_at);
        let before = std::mem::replace(&mut self.wallet, WalletState::Ready(wallet));
        self.runs = runs;
        self.stop_again();
        let now = self.now();
        self.advance();
        self.tell_if_overdrawn();
        if let Some(started_at) = started_at {
            self.settle_at = next_settlement(started_at, now, self.context.settings.settle_every);
        }
        if let WalletState::Loading(waiting) = before {
            for request in waiting {
                self.handle_request(request);
            }
        }
        self.mirror();
    }

    /// Says loudly that the wallet's sessions cost more than it has, which nothing of ours lets them.
    fn tell_if_overdrawn(&self) {
        if let WalletState::Ready(wallet) = &self.wallet
            && wallet.is_overdrawn()
        {
            tracing::error!(
                user = self.user.get(),
                version = wallet.version().get(),
                "the wallet is overdrawn: its sessions end, and somebody is to run `minute-credit verify`"
            );
        }
    }

    /// Lets the stops that still wait count in a wallet that was read anew, each from its instant.
    fn stop_again(&mut self) {
        let WalletState::Ready(wallet) = &mut self.wallet else {
            return;
        };
        let id = wallet.sessions().first().map(|session| session.id);
        let mut is_stopped = self.commands.stopping.is_empty();
        for stop in &self.commands.stopping {
            is_stopped = id.is_some_and(|id| wallet.stop(stop.at, id, stop.reason).is_ok());
        }
        if !is_stopped {
            self.refuse_stops();
        }
    }

    pub(super) fn rebase(&mut self, record: &WalletRecord) {
        let now = self.now();
        let WalletState::Ready(wallet) = &mut self.wallet else {
            return;
        };
        // What was written that changed no balance from outside is of another node's sessions.
        let writes = record.version.get() - wallet.version().get();
        let is_served_elsewhere =
            i64::try_from(record.changes.len()).is_ok_and(|changes| writes > changes);
        let facts = recovery::rebase_of(record, &self.context.settings.node);
        let ended = wallet.rebase(now, &facts);
        wallet.advance(now);
        if let Some(opening) = wallet.unrecorded_start()
            && is_served_elsewhere
        {
            // A whole session may have had the slot meanwhile: this one counts from when it is free. That
            // may lie ahead of our time if that stands still; but another node's clock may be ahead of ours
            // too, and never says when our sessions start.
            let clock = self.context.timeline.clock().now();
            let free_at = wallet.instant().max(record.last_instant.min(clock));
            wallet.restart(free_at, opening.session);
        }
        let uncovered_start = wallet.uncovered_start();
        if !ended.is_empty() {
            // Somebody else ended it, and has told whoever asked.
            self.live.set(0);
            self.commands.abandoned = None;
            self.refuse_stops();
        }
        if let Some(id) = uncovered_start {
            self.withdraw_start(id, StartError::InsufficientCredits);
        }
        self.tell_added(record);
        self.start_queued();
        self.mirror();
    }

    /// Tells what came into the wallet from outside since the version that `record` was asked for.
    fn tell_added(&mut self, record: &WalletRecord) {
        let WalletState::Ready(wallet) = &self.wallet else {
            return;
        };
        let credits = wallet.balance();
        for change in &record.changes {
            if let Ok(amount) = Credits::new(change.amount.get())
                && !amount.is_zero()
            {
                self.is_low_told = false;
                self.tell(News::Event(ServerMessage::CreditsAdded { amount, credits }));
            }
        }
    }

    /// Answers everybody who waits for a wallet that can't be read, or isn't there.
    pub(super) fn refuse_waiting(&mut self, why: StartError) {
        let WalletState::Loading(waiting) = &mut self.wallet else {
            return;
        };
        let is_unknown = matches!(why, StartError::UserUnknown);
        for request in std::mem::take(waiting) {
            match request {
                Request::Start(_, reply) => {
                    let error = if is_unknown {
                        StartError::UserUnknown
                    } else {
                        StartError::Unavailable
                    };
                    let _gone = reply.send(Err(error));
                }
                Request::Stop(_, _, reply) => {
                    let error = if is_unknown {
                        StopError::NoActiveSession
                    } else {
                        StopError::Unavailable
                    };
                    let _gone = reply.send(Err(error));
                }
                Request::Balance(reply) => {
                    let error = if is_unknown {
                        BalanceError::UserUnknown
                    } else {
                        BalanceError::Unavailable
                    };
                    let _gone = reply.send(Err(error));
                }
                Request::Watch(_) | Request::Notice => {}
            }
        }
    }
}
