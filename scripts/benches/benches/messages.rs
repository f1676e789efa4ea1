//! What it costs to write one message of the stream as JSON.

use std::hint::black_box;

use benches::{after, live_wallet, session};
use criterion::{Criterion, criterion_group, criterion_main};
use schema::{
    session::ActiveSession,
    websocket::{CreditUpdate, ServerMessage, StreamMessage, StreamPosition},
};

fn messages(criterion: &mut Criterion) {
    let mut wallet = live_wallet(100_000);
    wallet.advance(after(3_600_000));
    let Some(live) = wallet.session(session()) else {
        return;
    };
    let active = ActiveSession {
        session_id: live.id,
        started_at: live.started_at,
        consumed: live.charge(wallet.instant()).unwrap_or_default(),
        credits_per_interval: live.tariff.price(),
        interval_ms: live.tariff.interval(),
        next_charge_at: wallet.next_boundary(live.id),
        depletes_at: wallet.depletes_at(live.id),
    };
    let message = StreamMessage {
        message: ServerMessage::CreditUpdate(CreditUpdate {
            credits: wallet.balance(),
            as_of: wallet.instant(),
            active: true,
            session: Some(active),
            resumed: None,
        }),
        position: StreamPosition {
            epoch: 1_234_567_890_123_456,
            seq: 7,
        },
    };
    let mut group = criterion.benchmark_group("messages");
    group.bench_function("balance", |bencher| {
        bencher.iter(|| serde_json::to_string(black_box(&message)));
    });
    group.finish();
}

criterion_group!(benches, messages);
criterion_main!(benches);
