//! Taking over the live sessions of a node, at start-up or after an actor failed.
//!
//! It writes nothing for a session: that a new run has begun is one row, and from then on what every
//! session was served for follows from the runs. Sessions that ended meanwhile are settled by their
//! actors like any others.

use std::sync::Arc;

use billing::{Rebase, RecordedSession, Wallet};
use ractor::ActorRef;
use schema::UnixMillis;

use crate::{
    context::Context,
    facts::{LiveSession, NodeName, WalletRecord},
    store::StoreError,
    supervisor::{self, SupervisorMessage},
    timeline::Runs,
};

/// How many wallets are read at a time.
const PAGE: u32 = 2_000;

/// Hands every wallet with a live session of our node to the supervisor. Returns how many there are.
pub async fn adopt_all(
    context: &Arc<Context>,
    supervisor: &ActorRef<SupervisorMessage>,
) -> Result<u64, StoreError> {
    let (now, runs) = context.timeline.now_and_runs();
    let node = &context.settings.node;
    let read = |after| context.store.live_wallets(node, after, PAGE);
    let mut adopted = 0;
    let mut page = read(None).await?;
    while let Some(last) = page.last().map(|record| record.user) {
        adopted += page.len() as u64;
        // The next page is read while the actors of this one start, and no sooner: so there are never
        // more than two in memory.
        let adopt = async {
            for record in &page {
                let wallet = rebuild(record, &runs, now);
                let runs = runs.all.len();
                let _stopped = supervisor.cast(SupervisorMessage::Adopt { wallet, runs });
            }
            supervisor::routed(supervisor).await;
        };
        let (next, ()) = tokio::join!(read(Some(last)), adopt);
        page = next?;
    }
    Ok(adopted)
}

/// The wallet that follows from its record and the node's `runs`, which last until `now` at least.
pub fn rebuild(record: &WalletRecord, runs: &Runs, now: UnixMillis) -> Wallet {
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
        now,
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
