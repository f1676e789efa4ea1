//! One user's stream: who listens, and the events of late with their numbers.

use std::{collections::VecDeque, sync::Arc};

use schema::{
    session::LiveBalance,
    websocket::{ServerMessage, StreamMessage, StreamPosition},
};
use tokio::time::Instant;

use super::{HubArguments, Join, Joined, SeatNumber};
use crate::{
    outbox::{Event, Outbox},
    tokens::Bearer,
};

/// See the module's documentation.
pub(super) struct UserStream {
    epoch: u64,
    /// The number of the last event.
    seq: u64,
    /// The last events and when they happened, without a gap up to `seq`.
    recent: VecDeque<(Instant, Event)>,
    pub(super) seats: Vec<Seat>,
    /// When the last one left, if nobody listens.
    pub(super) left_at: Option<Instant>,
}

/// A socket's place.
pub(super) struct Seat {
    pub(super) number: SeatNumber,
    pub(super) bearer: Bearer,
    pub(super) outbox: Arc<Outbox>,
}

impl UserStream {
    /// A stream in an epoch of its own, in which nothing has happened yet.
    pub(super) fn begin(epoch: u64) -> Self {
        Self {
            epoch,
            seq: 0,
            recent: VecDeque::new(),
            seats: Vec::new(),
            left_at: None,
        }
    }

    pub(super) fn tell_balance(&self, balance: LiveBalance) {
        for seat in &self.seats {
            seat.outbox.put_balance(balance);
        }
    }

    /// Numbers the event, and tells and keeps it.
    pub(super) fn tell_event(&mut self, message: ServerMessage, arguments: &HubArguments) {
        let position = StreamPosition {
            epoch: self.epoch,
            seq: self.seq + 1,
        };
        let text = match serde_json::to_string(&StreamMessage { message, position }) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(%error, "an event has no JSON");
                return;
            }
        };
        self.seq = position.seq;
        let event = Event {
            seq: position.seq,
            text: text.into(),
        };
        for seat in &self.seats {
            seat.outbox.put_event(event.clone());
        }
        self.recent.push_back((Instant::now(), event));
        self.forget(arguments);
    }

    /// Seats a socket, and has it told what its client missed, if all of that is still there.
    pub(super) fn join(
        &mut self,
        number: SeatNumber,
        join: Join,
        arguments: &HubArguments,
    ) -> Joined {
        self.forget(arguments);
        let missed = join.since.and_then(|since| self.missed(since));
        if let Some(missed) = missed {
            let kept = self.recent.len();
            // It is at most `kept`, see below.
            let missed = usize::try_from(missed).unwrap_or(kept);
            for (_, event) in self.recent.range(kept - missed..) {
                join.outbox.put_event(event.clone());
            }
        }
        self.left_at = None;
        // Most users have one socket, and pushing to an empty vector would make room for four.
        self.seats.reserve_exact(1);
        self.seats.push(Seat {
            number,
            bearer: join.bearer,
            outbox: join.outbox,
        });
        Joined {
            seat: number,
            position: StreamPosition {
                epoch: self.epoch,
                seq: self.seq - missed.unwrap_or(0),
            },
            missed,
        }
    }

    /// When the oldest event happened that is kept.
    pub(super) fn oldest_kept(&self) -> Option<Instant> {
        self.recent.front().map(|(at, _)| *at)
    }

    /// How many events there were after `since`, if all of them are kept.
    fn missed(&self, since: StreamPosition) -> Option<u64> {
        if since.epoch != self.epoch {
            return None;
        }
        let missed = self.seq.checked_sub(since.seq)?;
        (missed <= self.recent.len() as u64).then_some(missed)
    }

    /// Forgets what is too old or too much to be kept.
    pub(super) fn forget(&mut self, arguments: &HubArguments) {
        while self.recent.len() > arguments.replay_events_max
            || self
                .recent
                .front()
                .is_some_and(|(at, _)| at.elapsed() > arguments.replay_for)
        {
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            self.recent = VecDeque::new();
        }
    }
}
