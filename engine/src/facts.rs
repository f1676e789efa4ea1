//! What is recorded: the facts that the journal writes, and the records that are read back.

use billing::{BalanceChange, Opening, RecordedSession, Run, Settlement, Takeover, WalletVersion};
use schema::{Credits, Millis, SessionId, UnixMillis, UserId};

use crate::keys::{IdempotencyKey, RequestKey};

/// The name under which a process serves sessions. Sessions stay with their node's name, not with
/// the process: whoever runs under the name takes them over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeName(String);

/// A node name with characters that it can't have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node name has 1 to 64 letters, digits, dots, dashes or underscores, not {given:?}")]
pub struct InvalidNodeName {
    /// What was refused.
    pub given: String,
}

impl NodeName {
    /// The node of this name.
    pub fn new(name: &str) -> Result<Self, InvalidNodeName> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_allowed) {
            return Err(InvalidNodeName {
                given: name.to_owned(),
            });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names one process, so that it can tell a run that it began itself from another's. Drawn by chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessId(String);

impl ProcessId {
    /// A process of its own name.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One run of a process under its node's name, numbered from 1. Only the latest may write. A process
/// begins another run when it was suspended, or paused its sessions because the database was away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRun {
    /// The node.
    pub node: NodeName,
    /// The run's number.
    pub epoch: i64,
    /// The process.
    pub process: ProcessId,
    /// When it began to serve.
    pub started_at: UnixMillis,
    /// What it does with the sessions that it found live.
    pub takeover: Takeover,
}

impl NodeRun {
    /// The run as it serves sessions, while it lasts.
    pub const fn lasting(&self) -> Run {
        Run {
            from: self.started_at,
            to: UnixMillis::MAX,
            takeover: self.takeover,
        }
    }
}

/// What a node's runs have recorded of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeTime {
    /// The greatest instant that a run of the node was alive at, or recorded something with.
    pub latest: UnixMillis,
    /// How far the last run's beginning lay ahead of the wall clock.
    pub lead: Millis,
}

/// Whether a run goes on with the sessions of the run before it, or ends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumePolicy {
    /// It goes on if the node was away for no longer than this.
    Within(Millis),
    /// It ends them.
    Never,
}

impl ResumePolicy {
    /// What a run that begins at `started_at` does with sessions that were served until `cut`.
    pub fn takeover(self, cut: UnixMillis, started_at: UnixMillis) -> Takeover {
        match self {
            Self::Within(gap_max) if started_at.since(cut) <= gap_max => Takeover::Resume,
            Self::Within(_) | Self::Never => Takeover::End,
        }
    }
}

/// Something that a session decided and the journal records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A session starts.
    Opening(Opening),
    /// A session's charge so far, perhaps with its end.
    Settlement(Settlement),
}

impl Fact {
    /// Whose wallet it writes to.
    pub const fn user(&self) -> UserId {
        match self {
            Self::Opening(opening) => opening.user,
            Self::Settlement(settlement) => settlement.user,
        }
    }

    /// The session that it speaks of.
    pub const fn session(&self) -> SessionId {
        match self {
            Self::Opening(opening) => opening.session,
            Self::Settlement(settlement) => settlement.session,
        }
    }

    /// The instant that it speaks of.
    pub const fn at(&self) -> UnixMillis {
        match self {
            Self::Opening(opening) => opening.started_at,
            Self::Settlement(settlement) => settlement.at,
        }
    }

    /// The wallet's version that it was decided from; recording it makes the next one.
    pub const fn version(&self) -> WalletVersion {
        match self {
            Self::Opening(opening) => opening.version,
            Self::Settlement(settlement) => settlement.version,
        }
    }
}

/// A fact with the idempotency keys that its transaction keeps, or forgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The fact.
    pub fact: Fact,
    /// The keys of the requests that the fact answers: of an opening, or of a session's end. What
    /// they are answered with follows from the fact.
    pub keys: Vec<RequestKey>,
    /// When the keys count as used; those used 24 h before count as absent.
    pub at: UnixMillis,
    /// The key of a start that turned out to be for nobody, with the end that undoes it: whoever sends
    /// it again starts anew.
    pub forgotten: Option<IdempotencyKey>,
}

/// Without any key.
impl From<Fact> for Recording {
    fn from(fact: Fact) -> Self {
        let at = fact.at();
        Self {
            fact,
            keys: Vec::new(),
            at,
            forgotten: None,
        }
    }
}

/// What became of a fact. Recording the same fact again gives `Recorded` again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactOutcome {
    /// It is durable, and the wallet is at the fact's version + 1 by it.
    Recorded,
    /// Somebody else has written to the wallet since the fact was decided. Nothing was changed:
    /// read the wallet and decide anew.
    Stale,
    /// It can't be recorded, now or later. Nothing was changed.
    Refused(Refusal),
}

/// Why a fact can't be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such user.
    #[error("there is no such user")]
    UserUnknown,
    /// One of its keys was used before: somebody has had that request done.
    #[error("the idempotency key was used before")]
    KeyUsed,
    /// The slot has a live session, of this node or another.
    #[error("the slot has a live session")]
    SlotTaken,
    /// The session is not live.
    #[error("the session is not live")]
    SessionEnded,
    /// It contradicts what is recorded, for example a settlement below the one before it. A fault
    /// of ours.
    #[error("it contradicts what is recorded")]
    Contradiction,
}

/// A wallet as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletRecord {
    /// Whose.
    pub user: UserId,
    /// Its version.
    pub version: WalletVersion,
    /// The balance in the ledger.
    pub credits: Credits,
    /// The greatest instant that anything of it was recorded with.
    pub last_instant: UnixMillis,
    /// Whether its user is about to be erased, or is: live sessions are to end, and none is to start.
    pub is_closing: bool,
    /// Its live sessions, of any node.
    pub live: Vec<LiveSession>,
    /// What others changed of the balance since the last settlement of any session, or the start of a
    /// live one; in the order of the wallet's versions.
    pub since_checkpoints: Vec<BalanceChange>,
    /// The balance changes from outside the engine since the version asked for, in the order of
    /// their versions.
    pub changes: Vec<BalanceChange>,
}

/// The version to read a wallet since that is not known yet: what it is now is all that matters.
pub const FIRST_READING: WalletVersion = WalletVersion::new(i64::MAX);

/// What the ledger says of a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedBalance {
    /// The balance, without what live sessions have cost since their last settlements.
    pub credits: Credits,
    /// The wallet's version that it is of.
    pub version: WalletVersion,
}

/// Which wallet is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalletAsked {
    /// Whose.
    pub user: UserId,
    /// The version since which changes from outside are to be told.
    pub since: WalletVersion,
}

/// What a session reads of its wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletReading {
    /// The wallet.
    pub record: WalletRecord,
    /// When the sessions ended that the user stopped before they cost anything, newest first; as far
    /// back as was asked for.
    pub unpaid_ends: Vec<UnixMillis>,
}

/// A live session as recorded, of any node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSession {
    /// The node that serves it.
    pub node: NodeName,
    /// The session.
    pub session: RecordedSession,
}
