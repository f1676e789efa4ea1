//! The checker, checked: one history that is right, and every way to make it wrong.

use schema::{
    Credits, CreditsChange, EntryId, Millis, SessionId, UnixMillis, UserId,
    ledger::{EntryKind, LedgerEntry},
    session::{
        ActiveSession, EndReason, LiveBalance, SessionRecord, SessionStarted, SessionStopped,
    },
    websocket::{CreditUpdate, ServerMessage},
};

use super::*;
use crate::{
    history::{Adjustment, Attempt, Ending, Life, Outcome, Reply, Sighting, Stream, Suspension},
    moment::Moment,
    records::UserRecords,
};

/// The wall clock when the run begins.
const EPOCH_MS: i64 = 1_000_000;
const USER: UserIndex = UserIndex(0);

fn at(ms: u64) -> Moment {
    Moment::from_micros(ms * 1_000)
}

fn wall(ms: i64) -> UnixMillis {
    UnixMillis::new(EPOCH_MS + ms).unwrap()
}

fn credits(credits: i64) -> Credits {
    Credits::new(credits).unwrap()
}

fn session(id: i64) -> SessionId {
    SessionId::new(id).unwrap()
}

fn terms() -> Terms {
    Terms {
        signup: credits(20),
        price: credits(1),
        interval: Millis::new(100).unwrap(),
        lag_max: Millis::new(1_000).unwrap(),
    }
}

fn attempt(sent: u64, ended: u64, outcome: Outcome) -> Attempt {
    Attempt {
        sent: at(sent),
        ended: at(ended),
        outcome,
    }
}

fn unknown() -> Outcome {
    Outcome::Unknown("lost".to_owned())
}

fn refused() -> Outcome {
    Outcome::Refused("session_active".to_owned())
}

fn operation(request: Request, key: &str, attempts: Vec<Attempt>) -> Operation {
    Operation {
        user: USER,
        request,
        key: key.to_owned(),
        attempts,
    }
}

fn started(id: i64, at_ms: i64) -> Outcome {
    Outcome::Acknowledged(Reply::Started(SessionStarted {
        message: String::new(),
        session_id: session(id),
        started_at: wall(at_ms),
    }))
}

fn stopped(id: i64, at_ms: i64, consumed: i64, left: i64) -> Outcome {
    Outcome::Acknowledged(Reply::Stopped(SessionStopped {
        message: String::new(),
        session_id: session(id),
        credits_consumed: credits(consumed),
        final_credits: credits(left),
        ended_at: wall(at_ms),
        reason: EndReason::User,
    }))
}

fn record(id: i64, from_ms: i64, to_ms: i64, served_ms: i64, consumed: i64) -> SessionRecord {
    SessionRecord {
        session_id: session(id),
        started_at: wall(from_ms),
        ended_at: Some(wall(to_ms)),
        credits_consumed: credits(consumed),
        end_reason: Some(EndReason::User),
        served_ms: Millis::new(served_ms).unwrap(),
        credits_per_interval: credits(1),
        interval_ms: Millis::new(100).unwrap(),
    }
}

fn entry(id: i64, at_ms: i64, kind: EntryKind, amount: i64, left: i64) -> LedgerEntry {
    LedgerEntry {
        entry_id: EntryId::new(id).unwrap(),
        at: wall(at_ms),
        kind,
        amount: CreditsChange::try_from(amount).unwrap(),
        balance_after: credits(left),
        session_id: None,
        reason: None,
    }
}

fn update(ms: u64, balance: i64) -> (Moment, ServerMessage) {
    let update = CreditUpdate {
        credits: credits(balance),
        as_of: wall(0),
        active: false,
        session: None,
        resumed: None,
    };
    (at(ms), ServerMessage::CreditUpdate(update))
}

fn sighting(sent: u64, balance: i64, live: Option<(i64, i64)>) -> Sighting {
    let session = live.map(|(id, consumed)| ActiveSession {
        session_id: session(id),
        started_at: wall(0),
        consumed: credits(consumed),
        credits_per_interval: credits(1),
        interval_ms: Millis::new(100).unwrap(),
        next_charge_at: None,
        depletes_at: None,
    });
    Sighting {
        user: USER,
        sent: at(sent),
        ended: at(sent + 2),
        balance: LiveBalance {
            credits: credits(balance),
            as_of: wall(0),
            session,
        },
    }
}

/// What happened and what is recorded, to be made wrong.
struct World {
    history: History,
    records: Records,
    terms: Terms,
}

impl World {
    /// The server lives from 0 to 2,000 ms and again from 2,500 ms on. Session 1 lives from 1,000 to
    /// 3,000 ms, of which 400 were not yet known to be served when the server was killed; 50 credits
    /// are granted at 1,500 ms, whose first attempt had no answer; a start at 3,500 ms is refused.
    fn right() -> Self {
        let grant = Request::Adjust(Adjustment::Grant, credits(50));
        let acknowledged = |reply| Outcome::Acknowledged(reply);
        let operations = vec![
            operation(
                Request::SignUp,
                "k0",
                vec![attempt(10, 20, acknowledged(Reply::SignedUp))],
            ),
            operation(
                Request::Start,
                "k1",
                vec![attempt(999, 1_002, started(1, 1_000))],
            ),
            operation(
                grant,
                "k2",
                vec![
                    attempt(1_400, 1_450, unknown()),
                    attempt(1_490, 1_510, acknowledged(Reply::Adjusted)),
                ],
            ),
            operation(
                Request::Stop,
                "k3",
                vec![attempt(2_999, 3_003, stopped(1, 3_000, 10, 60))],
            ),
            operation(
                Request::Start,
                "k4",
                vec![
                    attempt(3_400, 3_450, unknown()),
                    attempt(3_500, 3_510, refused()),
                ],
            ),
        ];
        let life = |spawned, ready, doomed: Option<u64>| Life {
            spawned: at(spawned),
            ready: Some(at(ready)),
            doomed: doomed.map(at),
            ended: doomed.map(at),
            ending: doomed.map(|_| Ending::Killed),
            suspensions: Vec::new(),
        };
        let mut granted = entry(2, 1_500, EntryKind::Grant, 50, 70);
        granted.reason = Some("k2".to_owned());
        let mut used = entry(3, 3_000, EntryKind::Usage, -10, 60);
        used.session_id = Some(session(1));
        Self {
            history: History {
                operations,
                sightings: vec![sighting(1_200, 18, Some((1, 2))), sighting(3_200, 60, None)],
                streams: vec![Stream {
                    user: USER,
                    opened: at(500),
                    messages: vec![update(600, 20), update(1_100, 19), update(1_520, 65)],
                }],
                lives: vec![life(0, 5, Some(2_000)), life(2_450, 2_500, None)],
                complaints: Vec::new(),
            },
            records: Records {
                users: vec![UserRecords {
                    id: UserId::new(1).unwrap(),
                    credits: credits(60),
                    sessions: vec![record(1, 1_000, 3_000, 1_090, 10)],
                    ledger: vec![entry(1, 10, EntryKind::SignupGrant, 20, 20), granted, used],
                }],
            },
            terms: terms(),
        }
    }

    fn user(&mut self) -> &mut UserRecords {
        &mut self.records.users[0]
    }

    fn session(&mut self) -> &mut SessionRecord {
        &mut self.user().sessions[0]
    }

    fn check(&self) -> Verdict {
        check(&self.history, &self.records, &self.terms)
    }
}

/// Makes the right world wrong, and expects violations of exactly these kinds.
#[track_caller]
fn expect(kinds: &[Kind], spoil: impl FnOnce(&mut World)) {
    let mut world = World::right();
    spoil(&mut world);
    let violations = world.check().violations;
    let mut found: Vec<Kind> = violations.iter().map(|violation| violation.kind).collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, kinds, "{violations:#?}");
}

#[test]
fn a_right_history_is_right() {
    expect(&[], |_| ());
    let verdict = World::right().check();
    assert_eq!(verdict.undercharge.sessions, 1);
    // Certain are 998 ms before the kill and 499 ms after it, of which 1,090 were served.
    assert_eq!(verdict.undercharge.worst_ms, 1_497 - 2 - 2 - 1_090);
    let adjustments = verdict.tallies["adjustment"];
    assert_eq!(
        (
            adjustments.acknowledged,
            adjustments.unknown,
            adjustments.acknowledged_later
        ),
        (1, 1, 1)
    );
    let starts = verdict.tallies["start"];
    assert_eq!(
        (starts.acknowledged, starts.refused, starts.refused_later),
        (1, 1, 1)
    );
}

#[test]
fn lost_operations_are_found() {
    // The session of an acknowledged start is gone, and all that belongs to it.
    expect(&[Kind::Lost], |world| {
        world.user().sessions.clear();
        world.user().ledger.truncate(2);
        world.user().credits = credits(70);
        world.history.operations[3].attempts.clear();
    });
    // It started at another time.
    expect(&[Kind::Lost], |world| {
        world.session().started_at = wall(999);
    });
    // Two starts were told the same session.
    expect(&[Kind::Lost], |world| {
        let twin = attempt(1_003, 1_004, started(1, 1_000));
        world.history.operations[4].attempts = vec![twin];
    });
    // An acknowledged stop has other figures: end, charge, reason.
    expect(&[Kind::Lost], |world| {
        world.session().ended_at = Some(wall(3_001));
    });
    expect(
        &[Kind::Lost, Kind::Overcharged, Kind::Unbalanced],
        |world| {
            world.session().credits_consumed = credits(11);
        },
    );
    expect(&[Kind::Lost, Kind::Undercharged], |world| {
        world.session().end_reason = Some(EndReason::Depleted);
    });
    // It is still live.
    expect(&[Kind::Lost], |world| {
        world.session().ended_at = None;
        world.session().end_reason = None;
    });
    // An acknowledged grant has no entry, or another amount.
    expect(&[Kind::Lost, Kind::Unbalanced], |world| {
        world.user().ledger.remove(1);
    });
    expect(&[Kind::Lost], |world| {
        let grant = Request::Adjust(Adjustment::Grant, credits(51));
        world.history.operations[2].request = grant;
    });
    // The signup grant is missing.
    expect(&[Kind::Lost], |world| {
        world.user().ledger.remove(0);
        world.user().ledger[0].amount = CreditsChange::incoming(credits(70));
        let grant = Request::Adjust(Adjustment::Grant, credits(70));
        world.history.operations[2].request = grant;
    });
}

#[test]
fn doubled_operations_are_found() {
    // One key has two sessions.
    expect(&[Kind::Lost, Kind::Doubled], |world| {
        let again = attempt(1_003, 1_004, started(2, 1_000));
        world.history.operations[1].attempts.push(again);
    });
    // A session that nobody started: its start was refused under its key.
    let unasked = |world: &mut World| {
        let sessions = &mut world.user().sessions;
        sessions.push(record(2, 3_400, 3_400, 0, 0));
        sessions[1].end_reason = Some(EndReason::Depleted);
    };
    expect(&[Kind::Doubled], unasked);
    // The same, where the start had no answer: that is how it resolved.
    expect(&[], |world| {
        unasked(world);
        world.history.operations[4].attempts.pop();
    });
    // An attempt without an answer may leave a session that was ended at its start, but only one.
    let void = |id: i64| {
        move |world: &mut World| {
            let mut void = record(id, 3_400 + id, 3_400 + id, 0, 0);
            void.end_reason = Some(EndReason::Engine);
            world.user().sessions.push(void);
        }
    };
    expect(&[], void(2));
    expect(&[Kind::Doubled], |world| {
        void(2)(world);
        void(3)(world);
    });
    // A session that was stopped by nobody.
    expect(&[Kind::Doubled], |world| {
        world.history.operations[3].attempts.clear();
    });
    // Two sessions at a time.
    expect(&[Kind::Doubled], |world| {
        unasked(world);
        world.history.operations[4].attempts.pop();
        world.user().sessions[1].started_at = wall(2_900);
    });
    // One key has two entries.
    let twice = |world: &mut World| {
        let mut again = world.user().ledger[1].clone();
        again.balance_after = credits(110);
        world.user().ledger.push(again);
        world.user().credits = credits(110);
    };
    expect(&[Kind::Doubled], twice);
    // Also where nobody knows whether it was done.
    expect(&[Kind::Doubled], |world| {
        twice(world);
        world.history.operations[2].attempts.pop();
    });
    // An entry that was refused, and one that nobody asked for.
    expect(&[Kind::Doubled], |world| {
        world.history.operations[2].attempts[1].outcome = refused();
    });
    expect(&[Kind::Doubled], |world| {
        world.user().ledger[1].reason = Some("another".to_owned());
        world.history.operations[2].attempts.pop();
    });
}

#[test]
fn overcharges_are_found() {
    // 2,003 ms lie between the start and the stop, of which the server was dead for 450.
    let served = |served_ms: i64| {
        move |world: &mut World| {
            let consumed = served_ms / 100;
            *world.session() = record(1, 1_000, 3_000, served_ms, consumed);
            world.user().ledger[2].amount = CreditsChange::outgoing(credits(consumed));
            world.user().ledger[2].balance_after = credits(70 - consumed);
            world.user().credits = credits(70 - consumed);
            let told = stopped(1, 3_000, consumed, 70 - consumed);
            world.history.operations[3].attempts[0].outcome = told;
        }
    };
    expect(&[], served(1_550));
    expect(&[Kind::Overcharged], served(1_560));
    expect(&[Kind::Overcharged], served(2_000));
    // The same where the server was not killed but suspended.
    let suspended = |world: &mut World| {
        world.history.lives.truncate(1);
        let life = &mut world.history.lives[0];
        (life.doomed, life.ended, life.ending) = (None, None, None);
        life.suspensions.push(Suspension {
            stopped: (at(2_000), at(2_000)),
            continued: (at(2_450), at(2_450)),
        });
    };
    expect(&[], |world| {
        suspended(world);
        served(1_550)(world);
    });
    expect(&[Kind::Overcharged], |world| {
        suspended(world);
        served(2_000)(world);
    });
    // The charge is more than the time served costs.
    expect(&[Kind::Overcharged], |world| {
        world.session().served_ms = Millis::new(999).unwrap();
    });
    // A balance was shown with more than can have been served.
    expect(&[Kind::Misreported], |world| {
        world.history.sightings[0] = sighting(1_200, 17, Some((1, 3)));
    });
}

#[test]
fn undercharges_are_found() {
    // More is missing than one crash explains.
    expect(&[Kind::Undercharged], |world| {
        world.terms.lag_max = Millis::new(300).unwrap();
    });
    // Without a crash nothing may be missing.
    expect(&[Kind::Undercharged], |world| {
        world.history.lives[0].ending = Some(Ending::Terminated);
    });
    expect(&[], |world| {
        world.history.lives[0].ending = Some(Ending::Superseded);
    });
    // The charge is less than the time served costs.
    expect(&[Kind::Undercharged], |world| {
        world.session().served_ms = Millis::new(1_100).unwrap();
    });
}

#[test]
fn wrong_balances_are_found() {
    expect(&[Kind::Unbalanced], |world| {
        world.user().credits = credits(61);
    });
    expect(&[Kind::Unbalanced], |world| {
        world.user().ledger[2].amount = CreditsChange::outgoing(credits(9));
        world.user().ledger[2].balance_after = credits(61);
        world.user().credits = credits(61);
        let told = stopped(1, 3_000, 10, 61);
        world.history.operations[3].attempts[0].outcome = told;
    });
    expect(&[Kind::Unbalanced], |world| {
        world.user().ledger[1].balance_after = credits(71);
    });
    // What a stop told doesn't add up.
    expect(&[Kind::Unbalanced], |world| {
        let told = stopped(1, 3_000, 10, 59);
        world.history.operations[3].attempts[0].outcome = told;
    });
    // More was given back than the session cost.
    expect(&[Kind::Unbalanced], |world| {
        let refund = Request::Adjust(Adjustment::Refund(session(1)), credits(11));
        let done = attempt(3_100, 3_200, Outcome::Acknowledged(Reply::Adjusted));
        world
            .history
            .operations
            .push(operation(refund, "k5", vec![done]));
        let mut refunded = entry(4, 3_150, EntryKind::Refund, 11, 71);
        refunded.reason = Some("k5".to_owned());
        refunded.session_id = Some(session(1));
        world.user().ledger.push(refunded);
        world.user().credits = credits(71);
    });
}

#[test]
fn what_websockets_should_not_have_said_is_found() {
    let says = |ms, balance| {
        move |world: &mut World| world.history.streams[0].messages.push(update(ms, balance))
    };
    expect(&[], says(1_600, 64));
    expect(&[], says(1_600, 69));
    expect(&[Kind::Misreported], says(1_600, 70));
    let tells = |consumed, left| {
        move |world: &mut World| {
            let told = ServerMessage::SessionStopped {
                session_id: session(1),
                reason: EndReason::User,
                ended_at: wall(3_000),
                credits_consumed: credits(consumed),
                final_credits: credits(left),
            };
            world.history.streams[0].messages.push((at(3_004), told));
        }
    };
    expect(&[], tells(10, 60));
    expect(&[Kind::Misreported], tells(9, 60));
    expect(&[Kind::Misreported], tells(10, 61));
}

#[test]
fn a_key_that_is_not_known_again_is_found() {
    for (operation, reply) in [(1, started(1, 1_000)), (3, stopped(1, 3_000, 10, 60))] {
        let again = |outcome| {
            move |world: &mut World| {
                let again = attempt(3_300, 3_310, outcome);
                world.history.operations[operation].attempts.push(again);
            }
        };
        expect(&[], again(reply));
        expect(&[Kind::Misreported], again(refused()));
        expect(&[], again(Outcome::Postponed("unavailable".to_owned())));
    }
    // The first success again is not what the wallet holds by then.
    expect(&[Kind::Misreported], |world| {
        let grant = Request::Adjust(Adjustment::Grant, credits(10));
        let done = attempt(3_100, 3_200, Outcome::Acknowledged(Reply::Adjusted));
        world
            .history
            .operations
            .push(operation(grant, "k5", vec![done]));
        let mut granted = entry(4, 3_150, EntryKind::Grant, 10, 70);
        granted.reason = Some("k5".to_owned());
        world.user().ledger.push(granted);
        world.user().credits = credits(70);
        let again = attempt(3_300, 3_310, stopped(1, 3_000, 10, 70));
        world.history.operations[3].attempts.push(again);
    });
}

#[test]
fn complaints_are_violations() {
    expect(&[Kind::Misbehaved], |world| {
        world.history.complaints.push("it panicked".to_owned());
    });
}
