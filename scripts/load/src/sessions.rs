//! `load start` and `load stop`: a session for every user, with nobody watching. What the commands that
//! watch do before and after is the same.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::bail;

use crate::{
    Target,
    fleet::Seen,
    for_all::ForAll,
    oracle::{Oracle, Stop},
    schedule::Schedule,
    users::Users,
    wire,
};

/// How many calls are on their way at once.
const CALLERS: usize = 16;

/// Starts them.
pub fn start(target: &Target) -> anyhow::Result<ExitCode> {
    let users = target.users()?;
    start_all(target.address()?, &users)?;
    println!("{} sessions started", users.len());
    Ok(ExitCode::SUCCESS)
}

/// Stops them, and tells what they cost together.
pub fn stop(target: &Target) -> anyhow::Result<ExitCode> {
    let users = target.users()?;
    let mut consumed = 0;
    stop_all(target.address()?, &users, |_, stop| {
        consumed += stop.consumed;
    })?;
    println!(
        "{} sessions stopped, {consumed} credits consumed",
        users.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// Starts a session for each of the users.
pub fn start_all(server: SocketAddr, users: &Users) -> anyhow::Result<()> {
    for_all(server, users, "/api/sessions/start", |_, _| Some(()))
}

/// Stops all their sessions; returns how many don't add up with what was seen of them, in the users'
/// order.
pub fn stop_watched<'s>(
    server: SocketAddr,
    users: &Users,
    seen: impl Iterator<Item = &'s Seen>,
) -> anyhow::Result<usize> {
    let seen: Vec<&Seen> = seen.collect();
    let mut wrong = 0;
    stop_all(server, users, |user, stop| {
        wrong += usize::from(!adds_up(seen[user], stop));
    })?;
    Ok(wrong)
}

/// Whether a stop is right by the session as it was watched.
fn adds_up(seen: &Seen, stop: Stop) -> bool {
    let Some(snapshot) = &seen.snapshot else {
        return false;
    };
    let oracle = Oracle {
        price: snapshot.price,
        interval_ms: snapshot.interval_ms,
        credits: snapshot.credits + snapshot.consumed,
    };
    let stop = Stop {
        started_at: snapshot.started_at,
        ..stop
    };
    let downtime_ms = Schedule::of(snapshot).downtime_ms(snapshot);
    oracle.drift(&stop, downtime_ms) == 0
}

/// Stops all their sessions. When a session started, its stop does not say.
fn stop_all(
    server: SocketAddr,
    users: &Users,
    mut take: impl FnMut(usize, Stop),
) -> anyhow::Result<()> {
    for_all(server, users, "/api/sessions/stop", |user, body| {
        let stop = Stop {
            started_at: 0,
            ended_at: wire::field(body, "\"endedAt\":")?,
            consumed: wire::field(body, "\"creditsConsumed\":")?,
            left: wire::field(body, "\"finalCredits\":")?,
        };
        take(user, stop);
        Some(())
    })
}

fn for_all(
    server: SocketAddr,
    users: &Users,
    path: &'static str,
    take: impl FnMut(usize, &[u8]) -> Option<()>,
) -> anyhow::Result<()> {
    let mut work = ForAll::new(users, CALLERS, "POST", path, take);
    work.run(server)?;
    match work.complaint() {
        Some(complaint) => bail!(complaint),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Snapshot;

    #[test]
    fn a_stop_is_held_against_the_session_as_it_was_watched() {
        let seen = Seen {
            snapshot: Some(Snapshot::EXAMPLE),
            ..Seen::default()
        };
        let stop = |ended_at, consumed, left| Stop {
            started_at: 0,
            ended_at,
            consumed,
            left,
        };
        assert!(adds_up(&seen, stop(13_499, 4, 96)));
        assert!(adds_up(&seen, stop(13_500, 6, 94)));
        assert!(!adds_up(&seen, stop(13_500, 4, 96)));
        assert!(!adds_up(&seen, stop(13_500, 6, 96)));
        assert!(!adds_up(&Seen::default(), stop(13_500, 6, 94)));
    }
}
