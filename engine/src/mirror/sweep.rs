//! Corrects what Redis kept while it was away: it may still show sessions that ended meanwhile.
//!
//! Every session that is live here shows its state anew by itself. What else stands in Redis is compared
//! with the database, and corrected if the wallet was written to since. A value that somebody else
//! replaces at the same moment stays theirs, so several processes may sweep one Redis.

use std::sync::Arc;

use billing::WalletVersion;
use fred::{
    clients::Client,
    interfaces::{KeysInterface, LuaInterface},
};
use schema::{
    UserId,
    mirror::{KEY_PREFIX, MirroredSession, key, user_of},
};
use tokio::sync::oneshot;

use super::MirrorArguments;
use crate::{
    facts::{WalletAsked, WalletRecord},
    store::StoreError,
    supervisor::SupervisorMessage,
};

/// How many keys are looked at in one step. With a batch of values on its way too, they stay within
/// what the client may have in memory.
const STEP: u32 = 250;

/// Replaces a value, or deletes it where there is no new one, if it is still what it was.
const REPLACE_IF_SAME: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1";

/// Why a sweep did not come to its end.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    /// Redis failed; the mirror learns of it by itself, and a sweep follows when it is back.
    #[error("Redis failed")]
    Redis(#[from] fred::error::Error),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
    /// A value can't be written.
    #[error("a value can't be written")]
    Json(#[from] serde_json::Error),
}

/// Something that Redis shows of a user.
struct Shown {
    user: UserId,
    /// As it stands there.
    text: String,
    value: MirroredSession,
}

/// What becomes of a value.
#[derive(Debug, PartialEq, Eq)]
enum Correction {
    /// It is right, or somebody else's to change.
    Keep,
    /// Nothing is shown of its user any more.
    Delete,
    /// This is right.
    Replace(MirroredSession),
}

/// Looks at all that Redis shows, and corrects what is out of date.
pub(super) async fn run(client: Client, arguments: Arc<MirrorArguments>) {
    match sweep(&client, &arguments).await {
        Ok(0) => {}
        Ok(corrected) => tracing::info!(
            corrected,
            "the mirror corrected what Redis showed from before"
        ),
        Err(error) => tracing::debug!(
            error = &error as &dyn std::error::Error,
            "what Redis shows from before stays until it expires"
        ),
    }
}

/// Returns how many values were corrected.
async fn sweep(client: &Client, arguments: &MirrorArguments) -> Result<u64, SweepError> {
    let (mut cursor, mut corrected) = ("0".to_owned(), 0);
    loop {
        let pattern = format!("{KEY_PREFIX}*");
        let (next, keys): (String, Vec<String>) =
            client.scan_page(cursor, pattern, Some(STEP), None).await?;
        for keys in keys.chunks(STEP as usize) {
            let shown = strangers(shown(client, keys).await?, arguments).await;
            corrected += correct(client, arguments, shown).await?;
        }
        if next == "0" {
            return Ok(corrected);
        }
        cursor = next;
    }
}

/// What stands under those of `keys` that are the mirror's. Others may keep theirs in the same Redis.
async fn shown(client: &Client, keys: &[String]) -> Result<Vec<Shown>, SweepError> {
    let users: Vec<UserId> = keys.iter().filter_map(|key| user_of(key)).collect();
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = users.iter().map(|user| key(*user)).collect();
    let texts: Vec<Option<String>> = client.mget(keys).await?;
    let shown = users.into_iter().zip(texts).filter_map(|(user, text)| {
        let text = text?;
        let value = serde_json::from_str(&text).ok()?;
        Some(Shown { user, text, value })
    });
    Ok(shown.collect())
}

/// Those who have no session actor here, which would show them by itself.
async fn strangers(shown: Vec<Shown>, arguments: &MirrorArguments) -> Vec<Shown> {
    if shown.is_empty() {
        return shown;
    }
    let (reply, asked) = oneshot::channel();
    let users = shown.iter().map(|shown| shown.user).collect();
    // The supervisor is gone only when the process is going.
    let _stopped = arguments
        .supervisor
        .cast(SupervisorMessage::WithoutSession(users, reply));
    let without = asked.await.unwrap_or_default();
    let is_without = |shown: &Shown| without.contains(&shown.user);
    shown.into_iter().filter(is_without).collect()
}

/// Returns how many of `shown` were out of date and are corrected.
async fn correct(
    client: &Client,
    arguments: &MirrorArguments,
    shown: Vec<Shown>,
) -> Result<u64, SweepError> {
    if shown.is_empty() {
        return Ok(0);
    }
    let asked: Vec<WalletAsked> = shown
        .iter()
        .map(|shown| WalletAsked {
            user: shown.user,
            // No changes are wanted, and there are none since the last version of all.
            since: WalletVersion::new(i64::MAX),
        })
        .collect();
    let found = arguments.store.wallets(&asked, None).await?;
    let mut corrected = 0;
    for (shown, wallet) in shown.into_iter().zip(found) {
        let record = wallet.map(|reading| reading.record);
        let new = match correction(&shown.value, record.as_ref()) {
            Correction::Keep => continue,
            Correction::Delete => String::new(),
            Correction::Replace(value) => serde_json::to_string(&value)?,
        };
        let values = [shown.text, new, arguments.ttl_seconds.to_string()];
        let replaced: u64 = client
            .eval(REPLACE_IF_SAME, key(shown.user), values.to_vec())
            .await?;
        corrected += replaced;
    }
    Ok(corrected)
}

/// What should be done with `value`, by what the database says of its wallet.
fn correction(value: &MirroredSession, record: Option<&WalletRecord>) -> Correction {
    let Some(record) = record else {
        return Correction::Delete;
    };
    if !record.live.is_empty() {
        // The process that serves the session shows it.
        return Correction::Keep;
    }
    if record.is_closing {
        return Correction::Delete;
    }
    if !value.active && value.version == record.version.get() {
        return Correction::Keep;
    }
    Correction::Replace(MirroredSession {
        version: record.version.get(),
        as_of: record.last_instant,
        credits: record.credits,
        active: false,
        session: None,
    })
}

#[cfg(test)]
mod tests {
    use schema::{Credits, UnixMillis};

    use super::*;

    fn credits(number: i64) -> Credits {
        Credits::new(number).unwrap()
    }

    fn at(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    fn value(version: i64, active: bool) -> MirroredSession {
        MirroredSession {
            version,
            as_of: at(5),
            credits: credits(70),
            active,
            session: None,
        }
    }

    fn record(version: i64) -> WalletRecord {
        WalletRecord {
            user: UserId::new(1).unwrap(),
            version: WalletVersion::new(version),
            credits: credits(60),
            last_instant: at(9),
            is_closing: false,
            live: Vec::new(),
            since_checkpoints: Vec::new(),
            changes: Vec::new(),
        }
    }

    #[test]
    fn what_is_shown_gives_way_to_what_is_recorded() {
        let right = MirroredSession {
            version: 4,
            as_of: at(9),
            credits: credits(60),
            active: false,
            session: None,
        };
        let check = |value: MirroredSession, record: Option<WalletRecord>, expected: Correction| {
            assert_eq!(correction(&value, record.as_ref()), expected);
        };
        check(value(4, false), Some(record(4)), Correction::Keep);
        check(value(3, false), Some(record(4)), Correction::Replace(right));
        check(value(3, true), Some(record(4)), Correction::Replace(right));
        check(value(4, true), Some(record(4)), Correction::Replace(right));
        check(value(4, false), None, Correction::Delete);
        let closing = WalletRecord {
            is_closing: true,
            ..record(4)
        };
        check(value(4, false), Some(closing), Correction::Delete);
    }
}
