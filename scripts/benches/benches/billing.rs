//! What the arithmetic of one live session costs: it is done at every wake and for every reading.

use std::hint::black_box;

use benches::{after, live_wallet, session};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

fn billing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("billing");
    let mut live = live_wallet(100_000);
    live.advance(after(3_600_000));
    group.bench_function("charge", |bencher| {
        bencher.iter(|| black_box(&live).balance());
    });
    group.bench_function("deadline", |bencher| {
        bencher.iter(|| black_box(&live).next_boundary(black_box(session())));
    });
    group.bench_function("depletion", |bencher| {
        bencher.iter(|| black_box(&live).depletes_at(black_box(session())));
    });
    group.bench_function("advance", |bencher| {
        let mut wallet = live_wallet(100_000);
        let mut millis = 0;
        bencher.iter(|| {
            millis += 1;
            wallet.advance(black_box(after(millis)));
        });
    });
    group.bench_function("end_by_depletion", |bencher| {
        bencher.iter_batched(
            || live_wallet(100),
            |mut wallet| {
                wallet.advance(black_box(after(600_000)));
                wallet
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, billing);
criterion_main!(benches);
