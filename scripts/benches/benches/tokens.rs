//! What it costs to find out who sent a request: a token that was read before, and one that was not.

use std::hint::black_box;

use benches::after;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use engine::store::{AccountKey, TokenGeneration};
use gateway::{key_ring::KeyRing, tokens::Tokens};
use schema::{Millis, UserId};

fn tokens(criterion: &mut Criterion) {
    let (Ok(ring), Ok(lifetime), Ok(user)) = (
        KeyRing::generate(),
        Millis::new(86_400_000),
        UserId::new(123_456),
    ) else {
        return;
    };
    let tokens = Tokens::new(ring.clone(), lifetime);
    let (account, generation) = (Some(AccountKey::random()), TokenGeneration::default());
    let Ok(token) = tokens.issue(user, account, generation, after(0)) else {
        return;
    };
    let mut group = criterion.benchmark_group("tokens");
    group.bench_function("issue", |bencher| {
        bencher.iter(|| tokens.issue(black_box(user), account, generation, after(0)));
    });
    group.bench_function("verify_first_time", |bencher| {
        bencher.iter_batched_ref(
            || Tokens::new(ring.clone(), lifetime),
            |fresh| fresh.read(black_box(&token), after(1)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("verify_again", |bencher| {
        bencher.iter(|| tokens.read(black_box(&token), after(1)));
    });
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
