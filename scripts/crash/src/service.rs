//! When the server can have served, and when it certainly did: what bounds a charge from above and
//! from below, without asking the server.

use crate::{
    history::{Ending, Life},
    moment::Moment,
};

/// Stretches of time without overlaps, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spans(Vec<(Moment, Moment)>);

/// The server's processes as one service.
#[derive(Clone, Debug)]
pub struct Service {
    possible: Spans,
    certain: Spans,
    /// Each may cost what `alive_at` lags behind.
    crashes: Vec<Moment>,
}

/// How much of a stretch was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The sum, in microseconds.
    pub micros: u64,
    /// In how many pieces; each may be off by a millisecond, since the server counts whole ones.
    pub pieces: u64,
}

impl Service {
    /// The service that `lives` gave.
    pub fn new(lives: &[Life]) -> Self {
        let mut possible = Vec::new();
        let mut certain = Vec::new();
        let mut crashes = Vec::new();
        for life in lives {
            let (mut from, until) = (life.spawned, life.ended.unwrap_or(Moment::NEVER));
            for pause in &life.suspensions {
                possible.push((from, pause.stopped.1));
                from = pause.continued.0;
                crashes.push(pause.stopped.0);
            }
            possible.push((from, until));
            if let Some(mut from) = life.ready {
                for pause in &life.suspensions {
                    certain.push((from, pause.stopped.0));
                    from = pause.continued.1;
                }
                certain.push((from, life.doomed.unwrap_or(Moment::NEVER)));
            }
            if matches!(life.ending, Some(Ending::Killed | Ending::Superseded)) {
                crashes.extend(life.doomed);
            }
        }
        crashes.sort_unstable();
        Self {
            possible: Spans::union(possible),
            certain: Spans::union(certain),
            crashes,
        }
    }

    /// How long the service can have been alive between two instants, at most.
    pub fn at_most(&self, from: Moment, to: Moment) -> Served {
        self.possible.within(from, to)
    }

    /// How long it was certainly alive between two instants.
    pub fn at_least(&self, from: Moment, to: Moment) -> Served {
        self.certain.within(from, to)
    }

    /// How often it crashed between two instants.
    pub fn crashes(&self, from: Moment, to: Moment) -> u64 {
        let before = |moment| self.crashes.partition_point(|crash| *crash < moment);
        (before(to).saturating_sub(before(from))) as u64
    }
}

impl Spans {
    fn union(mut spans: Vec<(Moment, Moment)>) -> Self {
        spans.retain(|(from, to)| from < to);
        spans.sort_unstable();
        let mut union: Vec<(Moment, Moment)> = Vec::with_capacity(spans.len());
        for (from, to) in spans {
            match union.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => union.push((from, to)),
            }
        }
        Self(union)
    }

    fn within(&self, from: Moment, to: Moment) -> Served {
        let first = self.0.partition_point(|span| span.1 <= from);
        let mut served = Served {
            micros: 0,
            pieces: 0,
        };
        for span in self.0[first..].iter().take_while(|span| span.0 < to) {
            let (begin, end) = (span.0.max(from), span.1.min(to));
            served.micros += end.micros().saturating_sub(begin.micros());
            served.pieces += 1;
        }
        served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Suspension;

    fn at(micros: u64) -> Moment {
        Moment::from_micros(micros)
    }

    fn life(spawned: u64, ready: u64, doomed: u64, ended: u64, ending: Ending) -> Life {
        Life {
            spawned: at(spawned),
            ready: Some(at(ready)),
            doomed: Some(at(doomed)),
            ended: Some(at(ended)),
            ending: Some(ending),
            suspensions: Vec::new(),
        }
    }

    #[test]
    fn the_bounds_enclose_the_truth() {
        let mut last = life(200, 220, 400, 410, Ending::Terminated);
        last.suspensions.push(Suspension {
            stopped: (at(300), at(305)),
            continued: (at(350), at(355)),
        });
        let service = Service::new(&[life(0, 10, 90, 100, Ending::Killed), last]);
        let check = |from, to, most, least, crashes| {
            assert_eq!(service.at_most(at(from), at(to)).micros, most);
            assert_eq!(service.at_least(at(from), at(to)).micros, least);
            assert_eq!(service.crashes(at(from), at(to)), crashes);
        };
        check(20, 50, 30, 30, 0);
        check(20, 150, 80, 70, 1);
        check(120, 150, 0, 0, 0);
        check(20, 260, 80 + 60, 70 + 40, 1);
        check(20, 1_000, 80 + 105 + 60, 70 + 80 + 45, 2);
        assert_eq!(service.at_most(at(20), at(260)).pieces, 2);
    }

    #[test]
    fn two_processes_at_once_serve_no_time_twice() {
        let service = Service::new(&[
            life(0, 10, 100, 160, Ending::Superseded),
            life(100, 150, 300, 310, Ending::Killed),
        ]);
        assert_eq!(service.at_most(at(0), at(200)).micros, 200);
        assert_eq!(service.at_least(at(0), at(200)).micros, 90 + 50);
        assert_eq!(service.crashes(at(0), at(200)), 1);
    }
}
