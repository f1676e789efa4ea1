//! When a node could serve a session, by its runs (law 8).

use schema::UserId;

use super::{
    Findings, Place,
    rows::{PauseRow, RunRow, SessionRow},
};

/// A node's runs as far as they serve one session.
pub(super) struct Service<'a> {
    /// The node's runs, in order.
    runs: &'a [RunRow],
    /// The session's pauses, in order.
    pauses: &'a [PauseRow],
    /// Instants at which the session was settled while it lived, past what `alive_at` says of a run.
    proofs: Vec<i64>,
}

impl<'a> Service<'a> {
    pub(super) fn new(
        runs: &'a [RunRow],
        pauses: &'a [PauseRow],
        settled_at: impl Iterator<Item = i64>,
    ) -> Self {
        let mut service = Self {
            runs,
            pauses,
            proofs: Vec::new(),
        };
        let is_news = |at: &i64| service.run_at(*at).is_some_and(|run| run.alive_at < *at);
        service.proofs = settled_at.filter(is_news).collect();
        service
    }

    /// Checks what the session says of its service.
    pub(super) fn check(&self, session: &SessionRow, user: UserId, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            served_ms,
            node,
            start_time,
            settled_at,
            ..
        } = session;
        let place = || Place::of_user("sessions", *id, user);
        let (least, most) = self.until(session, *settled_at);
        let served = i128::from(*served_ms);
        if served < least || served > most {
            let what = format!(
                "session {id} was served for {served_ms} ms, and node {node} could serve it for {least} to {most}"
            );
            findings.add(
                8,
                place(),
                "a session was not served for as long as its node could",
                what,
            );
        }
        let start = self.run_at(*start_time);
        if start.is_none_or(|run| *start_time > run.proved()) {
            let what = format!(
                "session {id} started at {start_time}, when no run of node {node} was there"
            );
            findings.add(8, place(), "a session started in no run of its node", what);
        }
        let proved = self.runs.iter().map(RunRow::proved).max();
        if proved.is_none_or(|proved| *settled_at > proved) {
            let what = format!(
                "session {id} was settled at {settled_at}, past what any run of node {node} has proved"
            );
            findings.add(
                8,
                place(),
                "a session was settled past every run of its node",
                what,
            );
        }
        self.check_cut(session, user, findings);
        self.check_engine_end(session, user, findings);
    }

    /// The engine ends a session at its start, or where its node was last alive before a run that ended it.
    fn check_engine_end(&self, session: &SessionRow, user: UserId, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            start_time,
            settled_at,
            end_reason,
            ..
        } = session;
        if end_reason.as_deref() != Some("engine") || settled_at == start_time {
            return;
        }
        let next = self
            .runs
            .partition_point(|run| run.started_at <= *settled_at);
        if self.runs.get(next).is_none_or(|run| run.resumes) {
            let what = format!(
                "session {id} was ended by the engine at {settled_at}, and no run after that ended what it found"
            );
            let place = Place::of_user("sessions", *id, user);
            findings.add(8, place, "the engine ended a session without a cause", what);
        }
    }

    /// A run that did not go on with the sessions of the one before ended them.
    fn check_cut(&self, session: &SessionRow, user: UserId, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            start_time,
            settled_at,
            ..
        } = session;
        let is_lived_through = |run: &&RunRow| {
            !run.resumes && *start_time < run.started_at && run.started_at <= *settled_at
        };
        for run in self.runs.iter().filter(is_lived_through) {
            let RunRow {
                epoch, started_at, ..
            } = run;
            let what = format!(
                "session {id} was settled at {settled_at}, and run {epoch} at {started_at} ended what it found"
            );
            let place = Place::of_user("sessions", *id, user);
            findings.add(
                8,
                place,
                "a session lived on past a run that ended it",
                what,
            );
        }
    }

    /// For how many ms the session was served by `instant`, at least and at most.
    ///
    /// A run shows by its `alive_at` how long it lasted, and by what it recorded: the session's own
    /// settlements prove that it was served until then, unless the run was over by then and a later one
    /// wrote them down.
    pub(super) fn until(&self, session: &SessionRow, instant: i64) -> (i128, i128) {
        let start = session.start_time;
        let first = self
            .runs
            .partition_point(|run| run.started_at <= start)
            .saturating_sub(1);
        let runs = self.runs.get(first..).unwrap_or_default();
        let nexts = runs
            .iter()
            .skip(1)
            .map(|run| run.started_at)
            .chain([i64::MAX]);
        let (mut least, mut most) = (0, 0);
        for (run, next) in runs.iter().zip(nexts) {
            if run.started_at >= instant && run.started_at > start {
                break;
            }
            let from = run.started_at.max(start);
            let proofs = self.proofs.iter().chain([&instant]);
            let proved = proofs
                .filter(|at| (run.started_at..next).contains(*at) && **at <= instant)
                .fold(run.alive_at, |until, at| until.max(*at));
            let alive = if run.is_current { proved } else { run.alive_at };
            least += self.served(from, alive.min(instant));
            most += self.served(from, proved.min(instant));
        }
        (least, most)
    }

    fn run_at(&self, instant: i64) -> Option<&RunRow> {
        let place = self.runs.partition_point(|run| run.started_at <= instant);
        self.runs.get(place.checked_sub(1)?)
    }

    /// How much of the stretch is no pause.
    fn served(&self, from: i64, to: i64) -> i128 {
        let pauses = self.pauses.iter().map(|pause| {
            length(
                pause.from_time.max(from),
                pause.to_time.unwrap_or(i64::MAX).min(to),
            )
        });
        length(from, to) - pauses.sum::<i128>()
    }
}

fn length(from: i64, to: i64) -> i128 {
    (i128::from(to) - i128::from(from)).max(0)
}
