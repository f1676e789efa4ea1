//! Taking over the live sessions of a node, at start-up or after an actor failed.
//!
//! It writes nothing for a session: that a new run has begun is one row, and from then on what every
//! session was served for follows from the runs. Sessions that ended meanwhile are settled by their
//! actors like any others.

use std::sync::Arc;

use billing::{Rebase, RecordedSession, Wallet};
use ractor::ActorRef;
use tokio::sync::mpsc;

use crate::{
    context::Context,
    facts::{LiveSession, NodeName, WalletRecord},
    store::StoreError,
    supervisor::{self, SupervisorMessage},
    timeline::Runs,
};

/// How many wallets are read at a time.
const PAGE: u32 = 2_000;
/// How many pages may have been read before the actors of an earlier one have started.
const PAGES_AHEAD: usize = 1;

/// Hands every wallet with a live session of our node to the supervisor. Returns how many there are.
pub async fn adopt_all(
    context: &Arc<Context>,
    supervisor: &ActorRef<SupervisorMessage>,
) -> Result<u64, StoreError> {
    let runs = context.timeline.runs();
    let (pages, mut arrived) = mpsc::channel(PAGES_AHEAD);
    let read = async move {
        let mut after = None;
        loop {
            let node = &context.settings.node;
            let page = context.store.live_wallets(node, after, PAGE).await?;
            let Some(last) = page.last().map(|record| record.user) else {
                return Ok(());
            };
            after = Some(last);
            if pages.send(page).await.is_err() {
                return Ok(());
            }
        }
    };
    // The actors of one page start while the next ones are read.
    let adopt = async {
        let mut adopted = 0;
        while let Some(page) = arrived.recv().await {
            adopted += page.len() as u64;
            for record in &page {
                let wallet = rebuild(record, &runs);
                let runs = runs.all.len();
                let _stopped = supervisor.cast(SupervisorMessage::Adopt { wallet, runs });
            }
            // No more than a page waits for the supervisor.
            supervisor::routed(supervisor).await;
        }
        adopted
    };
    let (read, adopted): (Result<(), StoreError>, u64) = tokio::join!(read, adopt);
    read.map(|()| adopted)
}

/// The wallet that follows from its record and the node's `runs`.
pub fn rebuild(record: &WalletRecord, runs: &Runs) -> Wallet {
    let sessions: Vec<RecordedSession> = ours(record, &runs.current.node)
        .map(|live| live.session.clone())
        .collect();
    Wallet::recovered(
        record.user,
        record.version,
        record.credits,
        &sessions,
        &record.since_checkpoints,
        &runs.all,
    )
}

/// What the record says to a wallet that has been read before.
pub fn rebase_of(record: &WalletRecord, node: &NodeName) -> Rebase {
    Rebase {
        version: record.version,
        ledger_balance: record.credits,
        changes: record.changes.clone(),
        live: ours(record, node)
            .map(|live| (live.session.id, live.session.settled))
            .collect(),
    }
}

fn ours<'a>(record: &'a WalletRecord, node: &'a NodeName) -> impl Iterator<Item = &'a LiveSession> {
    record.live.iter().filter(move |live| live.node == *node)
}
