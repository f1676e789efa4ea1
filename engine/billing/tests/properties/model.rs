//! The reference: a wallet so naive that it is plainly right. It walks through time millisecond by
//! millisecond and through sessions one by one, moves credits as a cashier would, and knows no
//! formula. Laws 2 and 7 of the design are its specification, in the order in which it does things.

use billing::ChargedAt;
use schema::session::EndReason;

/// What a user, an operator or an outage does to a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Start {
        id: i64,
        price: i64,
        interval_ms: i64,
        charged_at: ChargedAt,
    },
    Stop {
        id: i64,
        reason: EndReason,
    },
    /// An operator takes up to this many of the free credits.
    Debit(i64),
    Pause,
    Resume,
}

/// What happens at one millisecond.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moment {
    /// Credits that come in.
    pub(crate) credits: i64,
    /// What is done, in order.
    pub(crate) commands: Vec<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Paused,
    Ended { at_ms: i64, reason: EndReason },
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: i64,
    pub(crate) price: i64,
    pub(crate) interval_ms: i64,
    pub(crate) charged_at: ChargedAt,
    pub(crate) started_ms: i64,
    pub(crate) served_ms: i64,
    pub(crate) consumed: i64,
    pub(crate) state: State,
    /// What is kept back for the interval in progress.
    pub(crate) held: i64,
    /// How much of the interval in progress is served.
    progress_ms: i64,
}

/// The wallet.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) now_ms: i64,
    pub(crate) balance: i64,
    /// Ordered by id.
    pub(crate) sessions: Vec<Session>,
    /// What the debits really took, with their times.
    pub(crate) debits: Vec<(i64, i64)>,
    /// The starts that were rejected.
    pub(crate) rejected: Vec<i64>,
}

impl Model {
    pub(crate) fn new(balance: i64) -> Self {
        Self {
            now_ms: 0,
            balance,
            sessions: Vec::new(),
            debits: Vec::new(),
            rejected: Vec::new(),
        }
    }

    pub(crate) fn free(&self) -> i64 {
        self.balance
            - self
                .sessions
                .iter()
                .map(|session| session.held)
                .sum::<i64>()
    }

    pub(crate) fn session(&self, id: i64) -> Option<&Session> {
        self.sessions.iter().find(|session| session.id == id)
    }

    /// The wallet at `until_ms`, after everything that happens then. `story` has a moment for each
    /// millisecond.
    pub(crate) fn run(opening: i64, story: &[Moment], until_ms: i64) -> Self {
        let mut model = Self::new(opening);
        loop {
            let nothing = Moment::default();
            model.moment(
                usize::try_from(model.now_ms)
                    .ok()
                    .and_then(|now| story.get(now))
                    .unwrap_or(&nothing),
            );
            if model.now_ms == until_ms {
                return model;
            }
            model.serve_one_ms();
        }
    }

    /// All that happens at this millisecond, in the order of law 7.
    pub(crate) fn moment(&mut self, moment: &Moment) {
        self.charge_ended_intervals();
        self.balance += moment.credits;
        self.begin_next_intervals_or_end();
        for command in &moment.commands {
            self.command(*command);
            assert!(
                self.balance >= 0 && self.free() >= 0,
                "the model itself is wrong: {self:?}"
            );
        }
    }

    /// The engine ends every session.
    pub(crate) fn end_all(&mut self) {
        let (at_ms, reason) = (self.now_ms, EndReason::Engine);
        for session in &mut self.sessions {
            if matches!(session.state, State::Ended { .. }) {
                continue;
            }
            session.state = State::Ended { at_ms, reason };
            session.held = 0;
            if session.served_ms == 0 {
                // What never was served is free.
                self.balance += session.consumed;
                session.consumed = 0;
            }
        }
    }

    pub(crate) fn serve_one_ms(&mut self) {
        for session in self
            .sessions
            .iter_mut()
            .filter(|session| session.state == State::Running)
        {
            session.served_ms += 1;
            session.progress_ms += 1;
        }
        self.now_ms += 1;
    }

    fn charge_ended_intervals(&mut self) {
        for session in &mut self.sessions {
            if session.state == State::Running && session.progress_ms == session.interval_ms {
                self.balance -= session.held;
                session.consumed += session.held;
                session.held = 0;
            }
        }
    }

    fn begin_next_intervals_or_end(&mut self) {
        for place in 0..self.sessions.len() {
            let session = &self.sessions[place];
            if session.state == State::Running && session.progress_ms == session.interval_ms {
                let is_covered = self.free() >= session.price;
                let now_ms = self.now_ms;
                let session = &mut self.sessions[place];
                if is_covered {
                    self.balance -= session.begin_interval();
                } else {
                    session.state = State::Ended {
                        at_ms: now_ms,
                        reason: EndReason::Depleted,
                    };
                }
            }
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Start {
                id,
                price,
                interval_ms,
                charged_at,
            } => {
                if self.free() < price {
                    self.rejected.push(id);
                    return;
                }
                let (started_ms, state) = (self.now_ms, State::Running);
                let (served_ms, consumed, held, progress_ms) = (0, 0, 0, 0);
                let mut session = Session {
                    id,
                    price,
                    interval_ms,
                    charged_at,
                    started_ms,
                    served_ms,
                    consumed,
                    state,
                    held,
                    progress_ms,
                };
                self.balance -= session.begin_interval();
                self.sessions.push(session);
                self.sessions.sort_by_key(|session| session.id);
            }
            Command::Stop { id, reason } => {
                let at_ms = self.now_ms;
                for session in &mut self.sessions {
                    if session.id == id && !matches!(session.state, State::Ended { .. }) {
                        session.state = State::Ended { at_ms, reason };
                        session.held = 0;
                    }
                }
            }
            Command::Debit(amount) => {
                let taken = amount.min(self.free());
                self.balance -= taken;
                self.debits.push((self.now_ms, taken));
            }
            Command::Pause => self.switch(State::Running, State::Paused),
            Command::Resume => self.switch(State::Paused, State::Running),
        }
    }

    fn switch(&mut self, from: State, to: State) {
        self.sessions
            .iter_mut()
            .filter(|session| session.state == from)
            .for_each(|session| session.state = to);
    }
}

impl Session {
    /// Begins an interval whose price is covered; returns what leaves the balance at once.
    fn begin_interval(&mut self) -> i64 {
        self.progress_ms = 0;
        match self.charged_at {
            ChargedAt::End => {
                self.held = self.price;
                0
            }
            ChargedAt::Start => {
                self.consumed += self.price;
                self.price
            }
        }
    }
}
