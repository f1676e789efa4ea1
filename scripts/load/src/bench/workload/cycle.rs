//! `cycle`: users come in random order, start a session, stop it, and come back much later. Each answer
//! means that it is durable.
//!
//! What a start costs depends on who comes and on what the database has been through. So there is a past
//! in it, far more users than connections come, and it goes on for some minutes. Of the first and the
//! last there are figures, and of each there is a note. After them a few warm users do the same, then
//! fewer connections; and users without a session read their balances before all of it and after.

use std::{collections::VecDeque, ops::Range};

use anyhow::ensure;
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::{
    read::{Readers, Reading},
    shared::{self, CREDITS, INTERVAL},
    traffic::{self, Counted},
};
use crate::{
    bench::{
        figures::{Goal, Outcome, Unit, millis, number},
        filled::Past,
        place::{Bench, Length, Place, Server, StoreKind},
        window::WindowSeen,
    },
    calls::{Answer, Callers, More, Pace, Work},
    hiccup,
    oracle::{Oracle, Stop},
    users::Users,
    wire,
};

/// The interval of the tariff.
#[expect(clippy::cast_possible_truncation, reason = "some seconds")]
const INTERVAL_MS: i64 = INTERVAL.as_millis() as i64;
/// How long a minute is.
const MINUTE: Length = Length::seconds(60, 10);
/// How many connections read balances.
const READERS: usize = 64;
/// The order in which users come is the same each time.
const SEED: u64 = 0x0063_7963_6c65;

/// What is done.
#[derive(Clone, Debug)]
pub struct CyclePlan {
    /// Where.
    pub store: StoreKind,
    /// By how many connections, the largest number last: it does the whole time, each other one a minute
    /// after it.
    pub connections: Vec<usize>,
    /// How many users come; at least two for each connection.
    pub users: usize,
    /// What has been before; nothing on a fresh database.
    pub past: Option<Past>,
    /// How many minutes the whole time has.
    pub minutes: usize,
    /// Whether Postgres is vacuumed and analysed before.
    pub is_vacuumed: bool,
    /// Whether the few warm users and the idle ones are left out.
    pub is_alone: bool,
    /// Whether Postgres counts its statements.
    pub counts_statements: bool,
}

/// One minute.
struct Minute {
    rate: f64,
    operations: u64,
    starts: Histogram<u64>,
    stops: Histogram<u64>,
    window: WindowSeen,
}

/// A server that is measured.
struct Measuring<'m> {
    server: &'m Server,
    bench: &'m Bench,
    outcome: Outcome,
}

impl CyclePlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        let past = match self.past {
            None => "a fresh database".to_owned(),
            Some(Past {
                population,
                sessions,
            }) => format!("{population} users with {sessions} old sessions"),
        };
        let vacuumed = if self.is_vacuumed { ", vacuumed" } else { "" };
        format!(
            "start and stop, {} connections, {} users on {past}{vacuumed}, {} minutes",
            self.most(),
            self.users,
            self.minutes
        )
    }

    /// What is wanted of it.
    pub fn goals(&self) -> Vec<Goal> {
        let mut goals = vec![
            Goal::at_most("drift", 0.0),
            Goal::at_least("last_to_first", 0.95),
            Goal::at_least("many_to_few", 0.9),
            Goal::at_least("idle_read_rate", 30_000.0),
        ];
        match self.store {
            StoreKind::Postgres => goals.extend([
                Goal::at_least("rate", 8_000.0),
                Goal::at_most("start_time", 60.0).of_part("p99"),
                Goal::at_most("stop_time", 60.0).of_part("p99"),
                Goal::at_least("rate_16", 5_000.0),
                Goal::at_most("start_time_1", 1.0).of_part("p50"),
                Goal::at_most("stop_time_1", 0.8).of_part("p50"),
            ]),
            StoreKind::Sqlite => goals.push(Goal::at_least("rate", 9_000.0)),
        }
        goals
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut settings = shared::many_clients();
        // Nobody else stops thousands of sessions an hour before they cost anything.
        let unlimited = (
            "MINUTE_CREDIT__LIMITS__UNPAID_SESSIONS_PER_HOUR",
            "0".to_owned(),
        );
        settings.push(unlimited);
        let (mut place, users) = if let Some(past) = self.past {
            Place::with_past(bench, self.store, &settings, past, self.users)?
        } else {
            let place = Place::new(bench, self.store, &settings)?;
            let users = place.users(self.users, CREDITS, None)?;
            (place, users)
        };
        if self.is_vacuumed {
            place.vacuum()?;
        }
        let server = place.serve()?;
        let mut measuring = Measuring {
            server: &server,
            bench,
            outcome: Outcome::default(),
        };
        self.measure(&mut measuring, &place, &users)?;
        let outcome = measuring.outcome;
        shared::finish(outcome, server, &place)
    }

    fn measure(
        &self,
        measuring: &mut Measuring<'_>,
        place: &Place,
        users: &Users,
    ) -> anyhow::Result<()> {
        let most = self.most();
        // The warm ones are users of their own, as many as connections.
        let mut few = Cycle::new(users, 0..most, most);
        let mut many = Cycle::new(users, most..users.len(), most);
        // Whatever writes before the first minute would make it a later one.
        if !self.is_alone {
            measuring.read_idle(&many, "_first", "before the first minute")?;
        }
        if self.counts_statements {
            place.count_statements()?;
        }
        let minutes = measuring.minutes(&mut many, self.minutes)?;
        if self.counts_statements {
            measuring.add_statements(place, &minutes)?;
        }
        let warm = if self.is_alone {
            None
        } else {
            measuring.warm_up(&mut few)?;
            Some(measuring.minute(&mut few)?)
        };
        measuring.add_minutes(&minutes, warm.as_ref());
        let rate = minutes.last().map_or(0.0, |minute| minute.rate);
        measuring.open_loop(&mut many, rate)?;
        let (_, fewer) = self.connections.split_last().unwrap_or((&1, &[]));
        for connections in fewer {
            many.reconnect(*connections);
            let minute = measuring.minute(&mut many)?;
            let suffix = format!("_{connections}");
            let what = if *connections == 1 {
                "one connection: ".to_owned()
            } else {
                format!("{connections} connections: ")
            };
            measuring.add_minute(&minute, &suffix, &what);
        }
        if !self.is_alone {
            measuring.read_idle(&many, "", "in the end")?;
        }
        for cycle in [&few, &many] {
            measuring.add_wrong(cycle);
        }
        let drift = few.drift + many.drift;
        let what = "drift of all charges, in credits";
        measuring
            .outcome
            .add("drift", what, Unit::Count, number(drift));
        Ok(())
    }

    fn most(&self) -> usize {
        self.connections.last().copied().unwrap_or(1)
    }
}

impl Minute {
    /// Its rate and times, as the minute of this number.
    fn in_words(&self, number: usize) -> String {
        let time = |took: &Histogram<u64>| {
            let [p50, p99] =
                [0.5, 0.99].map(|share| Unit::Millis.show(millis(took.value_at_quantile(share))));
            format!("p50 {p50}, p99 {p99}")
        };
        format!(
            "minute {number}: {}; start {}; stop {}",
            Unit::PerSecond.show(self.rate),
            time(&self.starts),
            time(&self.stops)
        )
    }
}

impl Measuring<'_> {
    /// Has the users come and go for a minute, and ends with none of them in a session.
    fn minute(&mut self, cycle: &mut Cycle<'_>) -> anyhow::Result<Minute> {
        Ok(self.minutes(cycle, 1)?.remove(0))
    }

    fn minutes(&mut self, cycle: &mut Cycle<'_>, count: usize) -> anyhow::Result<Vec<Minute>> {
        let mut callers = Callers::connect(self.server.address, cycle.acting.len())?;
        let mut minutes = Vec::with_capacity(count);
        for _ in 0..count {
            let length = self.bench.time(MINUTE);
            let window = traffic::closed_loop(self.server, &mut callers, cycle, length)?;
            let operations = traffic::total(cycle);
            minutes.push(Minute {
                rate: window.per_second(operations),
                operations,
                starts: cycle.starts.clone(),
                stops: cycle.stops.clone(),
                window,
            });
        }
        cycle.end_all(&mut callers)?;
        Ok(minutes)
    }

    fn warm_up(&mut self, cycle: &mut Cycle<'_>) -> anyhow::Result<()> {
        let mut callers = Callers::connect(self.server.address, cycle.acting.len())?;
        callers.run(cycle, Pace::Closed(Some(traffic::WARM_UP)))?;
        cycle.end_all(&mut callers)
    }

    fn open_loop(&mut self, cycle: &mut Cycle<'_>, rate: f64) -> anyhow::Result<()> {
        let length = self.bench.time(traffic::MEASURED_FOR);
        let mut callers = Callers::connect(self.server.address, cycle.acting.len())?;
        let (outcome, server) = (&mut self.outcome, self.server);
        traffic::open_loop(outcome, server, &mut callers, cycle, rate, length)?;
        cycle.end_all(&mut callers)
    }

    /// Reads balances of users without a session, as fast as it goes.
    fn read_idle(&mut self, cycle: &Cycle<'_>, suffix: &str, when: &str) -> anyhow::Result<()> {
        let balances = &cycle.balances[cycle.first..];
        let idle = Readers::idle(cycle.users, cycle.first, balances);
        let mut reading = Reading::new(vec![idle]);
        let mut callers = Callers::connect(self.server.address, READERS)?;
        let length = self.bench.time(traffic::MEASURED_FOR);
        let window = traffic::closed_loop(self.server, &mut callers, &mut reading, length)?;
        let rate = window.per_second(traffic::total(&reading));
        let what = format!("balances of users without a session, {when}");
        let outcome = &mut self.outcome;
        outcome.add(key("idle_read_rate", suffix), what, Unit::PerSecond, rate);
        for (_, _, took) in reading.counted() {
            let key = key("idle_read_time", suffix);
            outcome.add_micros(key, format!("time of such a read, {when}"), took, 0);
        }
        Ok(())
    }

    fn add_minute(&mut self, minute: &Minute, suffix: &str, prefix: &str) {
        let outcome = &mut self.outcome;
        let what = format!("{prefix}operations");
        outcome.add(key("rate", suffix), what, Unit::PerSecond, minute.rate);
        let what = format!("{prefix}time of a start");
        outcome.add_micros(key("start_time", suffix), what, &minute.starts, 0);
        let what = format!("{prefix}time of a stop");
        outcome.add_micros(key("stop_time", suffix), what, &minute.stops, 0);
    }

    /// Adds the first minute and the last, what they are to each other, and to a minute of a few warm
    /// users. What every minute was is a note.
    fn add_minutes(&mut self, minutes: &[Minute], warm: Option<&Minute>) {
        let (Some(first), Some(last)) = (minutes.first(), minutes.last()) else {
            return;
        };
        self.add_minute(first, "_first", "minute 1: ");
        self.add_minute(last, "", &format!("minute {}: ", minutes.len()));
        if let Some(warm) = warm {
            self.add_minute(warm, "_few", "then a few warm users: ");
        }
        let warm_rate = warm.map(|minute| minute.rate);
        for (key, what, ratio) in ratios(first.rate, last.rate, warm_rate) {
            self.outcome.add(key, what, Unit::Ratio, ratio);
        }
        let outcome = &mut self.outcome;
        traffic::add_processor(outcome, &last.window, last.operations);
        outcome.add_micros("hiccup", "the machine's hiccups", &last.window.hiccups, 0);
        outcome.add_shares(&last.window);
        let notes = (1..).zip(minutes).map(|(number, it)| it.in_words(number));
        outcome.notes.extend(notes);
    }

    fn add_statements(&mut self, place: &Place, minutes: &[Minute]) -> anyhow::Result<()> {
        let Some(statements) = place.statements()? else {
            return Ok(());
        };
        let operations = minutes.iter().map(|minute| minute.operations).sum();
        let (calls, took_ms) = statements.for_each(operations);
        let outcome = &mut self.outcome;
        outcome.add(
            "statements",
            "statements sent to Postgres for each start or stop",
            Unit::Ratio,
            calls,
        );
        outcome.add(
            "statements_time",
            "time of Postgres for each start or stop",
            Unit::Millis,
            took_ms,
        );
        outcome.notes.extend(statements.in_words(operations));
        Ok(())
    }

    fn add_wrong(&mut self, cycle: &Cycle<'_>) {
        let outcome = &mut self.outcome;
        outcome.expect_none("credits of drift", cycle.drift);
        if let Some(first) = &cycle.first_wrong {
            let wrong = cycle.wrong;
            let problem = format!("{wrong} wrong answers, the first: {first}");
            outcome.problems.push(problem);
        }
    }
}

/// The name of a figure that there are several of. There are a few dozen of them.
fn key(name: &str, suffix: &str) -> &'static str {
    format!("{name}{suffix}").leak()
}

/// What the last minute is to the first, and each to that of a few warm users.
fn ratios(first: f64, last: f64, warm: Option<f64>) -> Vec<(&'static str, &'static str, f64)> {
    let of = |part: f64, whole: f64| part / whole.max(f64::MIN_POSITIVE);
    let mut ratios = vec![(
        "last_to_first",
        "operations of the last minute to those of the first",
        of(last, first),
    )];
    if let Some(warm) = warm {
        ratios.extend([
            (
                "first_to_few",
                "operations of the first minute to those of a few warm users",
                of(first, warm),
            ),
            (
                "many_to_few",
                "operations of the last minute to those of a few warm users",
                of(last, warm),
            ),
        ]);
    }
    ratios
}

/// The calls.
struct Cycle<'u> {
    users: &'u Users,
    /// The first of the users who come.
    first: usize,
    /// Users without a session, in the order in which they will come.
    free: VecDeque<usize>,
    chance: SmallRng,
    /// Whom each connection acts for, and when the session started that it is to stop.
    acting: Vec<Option<(usize, Option<i64>)>>,
    oracle: Oracle,
    balances: Vec<i64>,
    starts: Histogram<u64>,
    stops: Histogram<u64>,
    drift: u64,
    wrong: u64,
    first_wrong: Option<String>,
    /// Only stops are left to be made.
    is_ending: bool,
}

impl<'u> Cycle<'u> {
    /// For these of the users, more of them than connections.
    fn new(users: &'u Users, who: Range<usize>, connections: usize) -> Self {
        let mut chance = SmallRng::seed_from_u64(SEED);
        let first = who.start;
        let mut free: Vec<usize> = who.collect();
        free.shuffle(&mut chance);
        Self {
            users,
            first,
            free: free.into(),
            chance,
            acting: vec![None; connections],
            oracle: Oracle {
                price: 1,
                interval_ms: INTERVAL_MS,
                credits: CREDITS,
            },
            balances: vec![CREDITS; users.len()],
            starts: hiccup::new_histogram(),
            stops: hiccup::new_histogram(),
            drift: 0,
            wrong: 0,
            first_wrong: None,
            is_ending: false,
        }
    }

    /// Goes on with another number of connections. Nobody may be in a session.
    fn reconnect(&mut self, connections: usize) {
        self.acting = vec![None; connections];
    }

    /// Has those who are in a session stop it.
    fn end_all(&mut self, callers: &mut Callers) -> anyhow::Result<()> {
        self.is_ending = true;
        callers.run(self, Pace::Closed(None))?;
        self.is_ending = false;
        let is_over = self.acting.iter().all(Option::is_none);
        ensure!(
            is_over,
            "a session could not be stopped: {:?}",
            self.first_wrong
        );
        Ok(())
    }

    /// Lets a user go, who comes back at a random place in the second half of the queue.
    fn let_go(&mut self, user: usize) {
        self.free.push_back(user);
        let last = self.free.len() - 1;
        let place = self.chance.random_range(self.free.len() / 2..=last);
        self.free.swap(place, last);
    }

    /// Takes a success. Nothing where it lacks something.
    fn take(
        &mut self,
        connection: usize,
        user: usize,
        started_at: Option<i64>,
        body: &[u8],
    ) -> Option<()> {
        let Some(started_at) = started_at else {
            let started_at = wire::field(body, "\"startedAt\":")?;
            self.acting[connection] = Some((user, Some(started_at)));
            return Some(());
        };
        let stop = Stop {
            started_at,
            ended_at: wire::field(body, "\"endedAt\":")?,
            consumed: wire::field(body, "\"creditsConsumed\":")?,
            left: wire::field(body, "\"finalCredits\":")?,
        };
        let oracle = Oracle {
            credits: self.balances[user],
            ..self.oracle
        };
        self.drift += oracle.drift(&stop, 0);
        self.balances[user] = stop.left;
        self.acting[connection] = None;
        self.let_go(user);
        Some(())
    }
}

impl Work for Cycle<'_> {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> More {
        let (user, path) = match self.acting[connection] {
            Some((user, Some(_))) => (user, "/api/sessions/stop"),
            Some((user, None)) => (user, "/api/sessions/start"),
            None => {
                if self.is_ending {
                    return More::Nothing;
                }
                let Some(user) = self.free.pop_front() else {
                    return More::Nothing;
                };
                self.acting[connection] = Some((user, None));
                (user, "/api/sessions/start")
            }
        };
        wire::write_request(request, "POST", path, self.users.token(user));
        More::Request
    }

    fn done(&mut self, connection: usize, answer: Answer<'_>) -> anyhow::Result<()> {
        let Some((user, started_at)) = self.acting[connection] else {
            return Ok(());
        };
        let micros = u64::try_from(answer.took.as_micros())?;
        let took = if started_at.is_none() {
            &mut self.starts
        } else {
            &mut self.stops
        };
        took.saturating_record(micros);
        if answer.status != 200
            || self
                .take(connection, user, started_at, answer.body)
                .is_none()
        {
            self.wrong += 1;
            self.first_wrong.get_or_insert_with(|| {
                format!("{} {}", answer.status, String::from_utf8_lossy(answer.body))
            });
            ensure!(
                self.wrong < 1_000,
                "too many wrong answers: {:?}",
                self.first_wrong
            );
        }
        Ok(())
    }
}

impl Counted for Cycle<'_> {
    fn reset(&mut self) {
        self.starts.reset();
        self.stops.reset();
    }

    fn counted(&self) -> Vec<([&'static str; 2], &'static str, &Histogram<u64>)> {
        vec![
            (["start_time", "open_start_time"], "start", &self.starts),
            (["stop_time", "open_stop_time"], "stop", &self.stops),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer<'_> {
        Answer {
            status,
            body: body.as_bytes(),
            took: Duration::from_micros(7),
        }
    }

    #[test]
    fn users_take_turns_and_every_stop_is_held_against_the_oracle() {
        let users = Users::new("a\nb\n".to_owned()).unwrap();
        let mut cycle = Cycle::new(&users, 0..2, 1);
        cycle.free = VecDeque::from([0, 1]);
        let ask = |cycle: &mut Cycle<'_>, expected: &str| {
            let mut request = Vec::new();
            assert_eq!(cycle.next(0, &mut request), More::Request);
            let request = String::from_utf8(request).unwrap();
            let (path, rest) = request.split_once(" HTTP").unwrap();
            let (_, token) = rest.split_once("Bearer ").unwrap();
            let token = token.lines().next().unwrap();
            assert_eq!(format!("{path} {token}"), expected);
        };
        ask(&mut cycle, "POST /api/sessions/start a");
        cycle.done(0, answer(503, "busy")).unwrap();
        assert_eq!(cycle.wrong, 1);
        // What failed is asked again.
        ask(&mut cycle, "POST /api/sessions/start a");
        cycle.done(0, answer(200, r#"{"startedAt":1000}"#)).unwrap();
        ask(&mut cycle, "POST /api/sessions/stop a");
        let stop = r#"{"creditsConsumed":1,"finalCredits":999999,"endedAt":7000}"#;
        cycle.done(0, answer(200, stop)).unwrap();
        assert_eq!(cycle.drift, 0);
        ask(&mut cycle, "POST /api/sessions/start b");
        cycle.done(0, answer(200, r#"{"startedAt":1000}"#)).unwrap();
        ask(&mut cycle, "POST /api/sessions/stop b");
        let stop = r#"{"creditsConsumed":1,"finalCredits":999999,"endedAt":6999}"#;
        cycle.done(0, answer(200, stop)).unwrap();
        assert_eq!(cycle.drift, 1);
        assert_eq!((cycle.starts.len(), cycle.stops.len()), (3, 2));
        // The balance goes on from where it was.
        ask(&mut cycle, "POST /api/sessions/start a");
        cycle.done(0, answer(200, r#"{"startedAt":8000}"#)).unwrap();
        ask(&mut cycle, "POST /api/sessions/stop a");
        let stop = r#"{"creditsConsumed":0,"finalCredits":999999,"endedAt":8001}"#;
        cycle.done(0, answer(200, stop)).unwrap();
        assert_eq!(cycle.drift, 1);
        cycle.is_ending = true;
        assert_eq!(cycle.next(0, &mut Vec::new()), More::Nothing);
    }
    #[test]
    fn users_come_in_random_order_and_back_much_later() {
        let users = Users::new("t\n".repeat(1_000)).unwrap();
        let mut cycle = Cycle::new(&users, 100..1_000, 1);
        let mut comes = Vec::new();
        for _ in 0..9_000 {
            let user = cycle.free.pop_front().unwrap();
            cycle.let_go(user);
            comes.push(user);
        }
        assert!(comes.iter().all(|user| (100..1_000).contains(user)));
        let mut seen = vec![None; 1_000];
        for (turn, user) in comes.iter().enumerate() {
            let before = seen[*user].replace(turn);
            assert!(before.is_none_or(|before| turn - before >= 450), "{user}");
        }
        let came = seen.iter().flatten().count();
        assert_eq!(came, 900);
        let in_order = comes.windows(2).filter(|pair| pair[0] + 1 == pair[1]);
        assert!(in_order.count() < 100);
        let rounds_differ = (0..900).filter(|turn| comes[*turn] != comes[turn + 900]);
        assert!(rounds_differ.count() > 800);
    }

    #[test]
    fn minutes_are_compared() {
        let shares = |warm| {
            let ratios = ratios(8_000.0, 6_000.0, warm);
            let ratios = ratios.into_iter().map(|(key, _, ratio)| (key, ratio));
            ratios.collect::<Vec<_>>()
        };
        let expected = [
            ("last_to_first", 0.75),
            ("first_to_few", 0.8),
            ("many_to_few", 0.6),
        ];
        assert_eq!(shares(Some(10_000.0)), expected);
        assert_eq!(shares(None), expected[..1]);
        assert_eq!(key("rate", "_16"), "rate_16");
    }
}
