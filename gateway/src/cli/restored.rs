//! `minute-credit restored`: what a database needs that was restored from a backup.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use engine::store::{Database, Store, StoreLocation};
use schema::UnixMillis;

use crate::{server::ServerError, settings::Settings};

/// How many ids of a kind may have been given out in a millisecond since the backup: more than any
/// database could write.
const IDS_PER_MS: i64 = 10;
/// How many ids are skipped at least.
const IDS_MIN: u32 = 1_000_000;
/// How many ids are skipped at most, unless it is said otherwise: of a backup older than four days.
const IDS_MAX: u32 = u32::MAX;

/// `--ids N`
#[derive(Args)]
#[command(after_help = "\
Run it once, after restoring an older state of the database and before serving it. It

- skips ids of sessions, users and ledger entries, so that none is given out twice that somebody
  saw since the backup,
- voids all tokens, since those that were revoked since the backup would be good again, and
- shuts out every process that still writes to this database.

Moving a database with nothing lost needs none of it.

Examples:
  minute-credit restored && minute-credit verify")]
pub(super) struct Arguments {
    /// How many ids of each kind to skip [default: 10 for every millisecond since the backup, a million
    /// at least]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ids: Option<u32>,
}

pub(super) async fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let location = &settings.store.location;
    let kind = match location {
        StoreLocation::Sqlite(_) => "the embedded database",
        StoreLocation::Postgres(_) => "the Postgres database",
    };
    super::require_existing(settings)?;
    let failed = |source| ServerError::store(location, source);
    let database = Database::open(&settings.store).await.map_err(failed)?;
    let recorded = database.node_time(&settings.engine.node).await;
    let recorded = recorded.map_err(failed)?;
    let clock = engine::Clock::of_command(recorded)?;
    let backup = recorded.map(|recorded| recorded.latest);
    let ids = arguments
        .ids
        .unwrap_or_else(|| ids_since(backup, clock.now()));
    let resumption = database
        .skip_ahead(ids, clock.wall(), settings.engine.resume)
        .await
        .with_context(|| format!("{kind} may not be fit to serve: repeat"))?;
    database.close().await;
    println!(
        "{kind} is fit to serve: session ids go on from {}, user ids from {}, and the tokens of {} users are void",
        resumption.session_ids_from, resumption.user_ids_from, resumption.users
    );
    Ok(ExitCode::SUCCESS)
}

/// How many ids may have been given out from `backup` to `now`.
fn ids_since(backup: Option<UnixMillis>, now: UnixMillis) -> u32 {
    let lost_ms = now.get() - backup.unwrap_or(now).get();
    let ids = lost_ms.saturating_mul(IDS_PER_MS);
    u32::try_from(ids.max(0)).unwrap_or(IDS_MAX).max(IDS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_skipped_by_the_time_that_is_lost() {
        let check = |lost_ms: i64, ids: u32| {
            let at = |ms| UnixMillis::new(ms).unwrap();
            let backup = 1_700_000_000_000;
            assert_eq!(
                ids_since(Some(at(backup)), at(backup + lost_ms)),
                ids,
                "{lost_ms}"
            );
        };
        check(0, 1_000_000);
        check(-5, 1_000_000);
        check(100_000, 1_000_000);
        check(100_001, 1_000_010);
        check(86_400_000, 864_000_000);
        check(429_496_729, u32::MAX - 5);
        check(429_496_730, u32::MAX);
        check(86_400_000_000, u32::MAX);
        assert_eq!(ids_since(None, UnixMillis::new(1).unwrap()), 1_000_000);
    }
}
