//! Taking over the live sessions of a node, at start-up or after an actor failed.
//!
//! It writes nothing for a session: that a new run has begun is one row, and from then on what every
//! session was served for follows from the runs. Sessions that ended meanwhile are settled by their
//! actors like any others.

use std::sync::Arc;

use billing::{AfterCut, Rebase, RecordedSession, Span, Wallet};
use ractor::ActorRef;
use schema::Millis;

use crate::{
    context::Context,
    engine::RecoveredSessions,
    facts::{LiveSession, NodeName, NodeRun, WalletRecord},
    store::StoreError,
    supervisor::SupervisorMessage,
};

/// How many wallets are read at a time.
const PAGE: u32 = 2_000;

/// Whether sessions of earlier runs go on, given how long the node was away.
pub fn after_cut(
    policy: RecoveredSessions,
    resume_within: Millis,
    earlier_runs: &[Span],
    run: &NodeRun,
) -> AfterCut {
    let gap = earlier_runs
        .last()
        .map_or(Millis::ZERO, |last| run.started_at.since(last.to));
    if policy == RecoveredSessions::Stop || gap > resume_within {
        AfterCut::End
    } else {
        AfterCut::ResumeAt(run.started_at)
    }
}

/// Hands every wallet with a live session of our node to the supervisor. Returns how many there are.
pub async fn adopt_all(
    context: &Arc<Context>,
    supervisor: &ActorRef<SupervisorMessage>,
) -> Result<u64, StoreError> {
    let (mut adopted, mut after) = (0, None);
    loop {
        let page = context
            .store
            .live_wallets(&context.run.node, after, PAGE)
            .await?;
        let Some(last) = page.last() else {
            return Ok(adopted);
        };
        after = Some(last.user);
        adopted += page.len() as u64;
        for record in page {
            let _stopped = supervisor.cast(SupervisorMessage::Adopt(rebuild(&record, context)));
        }
    }
}

/// The wallet that follows from its record and the node's runs.
pub fn rebuild(record: &WalletRecord, context: &Context) -> Wallet {
    let sessions: Vec<RecordedSession> = ours(record, &context.run.node)
        .map(|live| live.session.clone())
        .collect();
    let is_of_this_run =
        |session: &RecordedSession| session.checkpoint.at >= context.run.started_at;
    let after_cut = if sessions.iter().all(is_of_this_run) {
        AfterCut::ResumeAt(context.run.started_at)
    } else {
        context.after_cut
    };
    Wallet::recovered(
        record.user,
        record.version,
        record.credits,
        &sessions,
        &context.earlier_runs,
        after_cut,
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
