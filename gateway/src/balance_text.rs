//! A balance as it is sent: the JSON of a `credit_update`, written by hand.
//!
//! It is the one message that goes out for every watcher at every interval. serde takes 4,500
//! instructions for it, as the message is flattened twice and each field finds its way through that; this
//! takes 1,700. A test holds it against serde.

use schema::{
    UnixMillis,
    session::{ActiveSession, LiveBalance},
    websocket::StreamPosition,
};

/// Room for nearly all balances, with what goes before and after them on a wire.
const USUAL_BYTES: usize = 320;

/// The message that tells `balance` at `position`; `resumed` is said in the first one only.
pub fn of(balance: &LiveBalance, position: StreamPosition, resumed: Option<bool>) -> String {
    let mut text = String::with_capacity(USUAL_BYTES);
    text.push_str(r#"{"type":"credit_update","credits":"#);
    push(&mut text, balance.credits.get());
    text.push_str(r#","asOf":"#);
    push(&mut text, balance.as_of.get());
    match &balance.session {
        Some(session) => {
            text.push_str(r#","active":true"#);
            push_session(&mut text, session);
        }
        None => text.push_str(r#","active":false"#),
    }
    match resumed {
        Some(true) => text.push_str(r#","resumed":true"#),
        Some(false) => text.push_str(r#","resumed":false"#),
        None => {}
    }
    text.push_str(r#","epoch":"#);
    push(&mut text, position.epoch);
    text.push_str(r#","seq":"#);
    push(&mut text, position.seq);
    text.push('}');
    text
}

fn push_session(text: &mut String, session: &ActiveSession) {
    text.push_str(r#","sessionId":"#);
    push(text, session.session_id.get());
    text.push_str(r#","startedAt":"#);
    push(text, session.started_at.get());
    text.push_str(r#","consumed":"#);
    push(text, session.consumed.get());
    text.push_str(r#","creditsPerInterval":"#);
    push(text, session.credits_per_interval.get());
    text.push_str(r#","intervalMs":"#);
    push(text, session.interval_ms.get());
    text.push_str(r#","nextChargeAt":"#);
    push_time(text, session.next_charge_at);
    text.push_str(r#","depletesAt":"#);
    push_time(text, session.depletes_at);
}

fn push_time(text: &mut String, time: Option<UnixMillis>) {
    match time {
        Some(time) => push(text, time.get()),
        None => text.push_str("null"),
    }
}

fn push(text: &mut String, number: impl itoa::Integer) {
    text.push_str(itoa::Buffer::new().format(number));
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use schema::{
        Credits, MAX_SAFE_INTEGER, Millis, SessionId,
        websocket::{CreditUpdate, ServerMessage, StreamMessage},
    };

    use super::*;

    /// Small and large numbers alike, up to the greatest that are allowed.
    fn number(random: &mut StdRng) -> i64 {
        let max = MAX_SAFE_INTEGER >> random.random_range(0..53);
        random.random_range(0..=max)
    }

    fn time(random: &mut StdRng) -> UnixMillis {
        UnixMillis::new(number(random)).unwrap()
    }

    fn credits(random: &mut StdRng) -> Credits {
        Credits::new(number(random)).unwrap()
    }

    fn session(random: &mut StdRng) -> ActiveSession {
        ActiveSession {
            session_id: SessionId::new(number(random).max(1)).unwrap(),
            started_at: time(random),
            consumed: credits(random),
            credits_per_interval: credits(random),
            interval_ms: Millis::new(number(random)).unwrap(),
            next_charge_at: random.random::<bool>().then(|| time(random)),
            depletes_at: random.random::<bool>().then(|| time(random)),
        }
    }

    #[test]
    fn it_is_what_serde_writes() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let random = &mut random;
            let balance = LiveBalance {
                credits: credits(random),
                as_of: time(random),
                session: random.random::<bool>().then(|| session(random)),
            };
            let position = StreamPosition {
                epoch: number(random).unsigned_abs(),
                seq: number(random).unsigned_abs(),
            };
            let resumed = [None, Some(false), Some(true)][random.random_range(0..3)];
            let message = StreamMessage {
                message: ServerMessage::CreditUpdate(CreditUpdate {
                    credits: balance.credits,
                    as_of: balance.as_of,
                    active: balance.session.is_some(),
                    session: balance.session,
                    resumed,
                }),
                position,
            };
            let expected = serde_json::to_string(&message).unwrap();
            assert_eq!(of(&balance, position, resumed), expected);
        }
    }
}
