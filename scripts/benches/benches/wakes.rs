//! What the metronome pays for one alarm among a million: to set it, to set it anew, and to ring.

use std::hint::black_box;

use benches::after;
use criterion::{Criterion, criterion_group, criterion_main};
use engine::wakes::{WakeNumber, Wakes};

/// How many alarms are set.
const ALARMS: u64 = 1_000_000;
/// Over how long they are spread, in ms: a settlement period.
const SPREAD_MS: u64 = 900_000;

/// Scatters numbers over the spread, always alike.
fn scattered(number: u64) -> i64 {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    i64::try_from(mixed % SPREAD_MS).unwrap_or(0)
}

fn wakes(criterion: &mut Criterion) {
    let mut wakes = Wakes::default();
    for number in 0..ALARMS {
        wakes.insert(after(scattered(number)), WakeNumber::new(number), number);
    }
    let mut group = criterion.benchmark_group("wakes_of_1m");
    let mut number = ALARMS;
    group.bench_function("insert_and_remove", |bencher| {
        bencher.iter(|| {
            number += 1;
            let (at, id) = (after(scattered(number)), WakeNumber::new(number));
            black_box(wakes.insert(at, id, number));
            wakes.remove(at, id);
        });
    });
    group.bench_function("expire_and_insert", |bencher| {
        bencher.iter(|| {
            let due = wakes.take_due(after(i64::MAX / 2_000_000), 1);
            for (at, owner) in due {
                let later = at.get() - benches::BEGIN_MS + 900_000;
                wakes.insert(after(later), WakeNumber::new(owner), owner);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, wakes);
criterion_main!(benches);
