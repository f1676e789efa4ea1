//! Prices, intervals and times as large and as small as they get: nothing overflows, and nothing
//! takes longer for being larger. A loop over intervals would not come back from any of these.

use billing::{ChargedAt, SlotNumber, Tariff, Wallet, WalletVersion};
use proptest::prelude::*;
use schema::{Credits, MAX_SAFE_INTEGER, Millis, UnixMillis, UserId, session::EndReason};

use crate::{
    charged_at,
    world::{credits, id, length, ms},
};

/// A number of any size: as many have few digits as many.
fn up_to(max: i64) -> impl Strategy<Value = i64> {
    (0..=53_u32, any::<i64>())
        .prop_map(move |(bits, number)| (number & ((1 << bits) - 1)).clamp(0, max))
}

fn wallet(opening: i64, at_ms: i64) -> Wallet {
    Wallet::new(
        UserId::new(1).unwrap(),
        WalletVersion::default(),
        credits(opening),
        ms(at_ms),
        Vec::new(),
    )
}

fn tariff() -> impl Strategy<Value = Tariff> {
    (
        up_to(MAX_SAFE_INTEGER),
        up_to(MAX_SAFE_INTEGER),
        charged_at(),
    )
        .prop_map(|(price, interval_ms, charged_at)| {
            Tariff::new(
                credits(price.max(1)),
                length(interval_ms.max(1)),
                charged_at,
            )
            .unwrap()
        })
}

/// What a live session has cost by law 2, in numbers that can't overflow.
fn charge(tariff: Tariff, served_ms: i64) -> i128 {
    let completed = i128::from(served_ms / tariff.interval().get());
    let charged = if tariff.charged_at() == ChargedAt::End {
        completed
    } else {
        completed + 1
    };
    charged * i128::from(tariff.price().get())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_048))]

    /// Law 2 for one session: the charge never falls and never exceeds the balance, and stopping at
    /// any instant leaves what was not consumed.
    #[test]
    fn a_charge_rises_and_is_covered(
        opening in up_to(MAX_SAFE_INTEGER),
        tariff in tariff(),
        started_ms in up_to(MAX_SAFE_INTEGER),
        mut later in proptest::collection::vec(up_to(MAX_SAFE_INTEGER), 1..8),
    ) {
        let mut wallet = wallet(opening, started_ms);
        let started = wallet.start(ms(started_ms), id(1), SlotNumber::default(), tariff);
        prop_assert_eq!(started.is_ok(), opening >= tariff.price().get());
        if started.is_err() {
            return Ok(());
        }
        later.sort_unstable();
        let mut charged = 0;
        for served_ms in later {
            let now = ms(started_ms.saturating_add(served_ms).min(MAX_SAFE_INTEGER));
            wallet.advance(now);
            prop_assert!(wallet.balance() >= wallet.free());
            let session = *wallet.session(id(1)).unwrap();
            let total = session.charge(now).unwrap().get();
            prop_assert!(total >= charged && total <= opening);
            prop_assert_eq!(total + wallet.balance().get(), opening);
            charged = total;

            let mut stopped = wallet.clone();
            let end = stopped.stop(now, id(1), EndReason::User).unwrap();
            prop_assert_eq!(end.consumed.get() + stopped.balance().get(), opening);
            prop_assert_eq!(stopped.balance(), stopped.free());
            if end.reason == EndReason::User {
                prop_assert_eq!(i128::from(end.consumed.get()), charge(tariff, end.served.get()));
            } else {
                prop_assert!(stopped.free() < tariff.price(), "it ended with an interval's price left");
            }
        }
    }

    /// Law 4: whatever the settlements in between, the totals come to the same.
    #[test]
    fn settlements_split_nothing(
        opening in up_to(MAX_SAFE_INTEGER),
        tariff in tariff(),
        mut at_ms in proptest::collection::vec(up_to(MAX_SAFE_INTEGER), 1..8),
    ) {
        let mut plain = wallet(opening, 0);
        if plain.start(ms(0), id(1), SlotNumber::default(), tariff).is_err() {
            return Ok(());
        }
        plain.start_recorded(id(1), WalletVersion::new(1));
        let mut split = plain.clone();
        let mut version = 1;
        at_ms.sort_unstable();
        let last = ms(*at_ms.last().unwrap());
        for now in at_ms.into_iter().map(ms) {
            split.advance(now);
            if let Some(settlement) = split.interim_settlement(id(1)) {
                version += 1;
                prop_assert_eq!(settlement.seq, version - 1);
                let before = (split.balance(), split.free(), split.depletes_at(id(1)));
                prop_assert_eq!(split.settled(&settlement, WalletVersion::new(version)), None);
                prop_assert_eq!(before, (split.balance(), split.free(), split.depletes_at(id(1))));
                prop_assert_eq!(split.interim_settlement(id(1)), None, "nothing is left to settle");
            }
        }
        let ends = [&mut plain, &mut split].map(|wallet| {
            let end = wallet.stop(last, id(1), EndReason::User).unwrap();
            let settlement = wallet.settlement_due().unwrap();
            let told = wallet.settled(&settlement, wallet.version().next());
            assert_eq!((told, settlement.total), (Some(end), end.consumed));
            assert!(wallet.sessions().is_empty());
            (end, wallet.balance())
        });
        prop_assert_eq!(ends[0], ends[1]);
        prop_assert_eq!(ends[0].0.consumed.get() + ends[0].1.get(), opening);
    }

    /// Several sessions, each with any tariff, to the end of time.
    #[test]
    fn many_sessions_last_to_the_end_of_time(
        opening in up_to(MAX_SAFE_INTEGER),
        tariffs in proptest::collection::vec(tariff(), 1..=4),
        at_ms in up_to(MAX_SAFE_INTEGER),
    ) {
        let mut wallet = wallet(opening, 0);
        for (number, tariff) in (1..).zip(tariffs) {
            let _rejected = wallet.start(ms(0), id(number), SlotNumber::new(i32::try_from(number).unwrap()), tariff);
        }
        let foretold: Vec<_> =
            wallet.sessions().iter().map(|session| (session.id, wallet.depletes_at(session.id))).collect();
        for now in [ms(at_ms), UnixMillis::MAX] {
            wallet.advance(now);
            let charged: i64 = wallet.sessions().iter().map(|session| session.charge(now).unwrap().get()).sum();
            prop_assert_eq!(charged + wallet.balance().get(), opening);
        }
        for (session, depletes_at) in foretold {
            prop_assert_eq!(wallet.session(session).unwrap().end.map(|end| end.at), depletes_at);
        }
    }
}

#[test]
fn the_dearest_the_shortest_and_the_longest() {
    let (one, all) = (1, MAX_SAFE_INTEGER);
    let check = |what: &str, opening, price, interval_ms, charged_at, depletes_ms: Option<i64>| {
        let tariff = Tariff::new(credits(price), length(interval_ms), charged_at).unwrap();
        let mut wallet = wallet(opening, 0);
        wallet
            .start(ms(0), id(1), SlotNumber::default(), tariff)
            .unwrap();
        assert_eq!(
            wallet.depletes_at(id(1)).map(UnixMillis::get),
            depletes_ms,
            "{what}"
        );
        wallet.advance(UnixMillis::MAX);
        assert_eq!(
            wallet.session(id(1)).unwrap().end.map(|end| end.at.get()),
            depletes_ms,
            "{what}"
        );
        let consumed = wallet
            .session(id(1))
            .unwrap()
            .charge(UnixMillis::MAX)
            .unwrap();
        assert_eq!(consumed.get() + wallet.balance().get(), opening, "{what}");
    };
    for charged_at in [ChargedAt::End, ChargedAt::Start] {
        check("all credits, 1 a ms", all, one, 1, charged_at, Some(all));
        check("all credits for 1 ms", all, all, 1, charged_at, Some(1));
        check(
            "all credits but one",
            all - 1,
            all - 1,
            1,
            charged_at,
            Some(1),
        );
        check(
            "1 credit for all time",
            one,
            one,
            all,
            charged_at,
            Some(all),
        );
        check("2 credits last beyond time", 2, one, all, charged_at, None);
        check(
            "a century in ms",
            3_155_760_000_000,
            one,
            1,
            charged_at,
            Some(3_155_760_000_000),
        );
    }
}

/// A settled total and a balance that together exceed all credits there can be.
#[test]
fn a_full_wallet_with_a_long_past() {
    let tariff = Tariff::new(credits(1), length(1), ChargedAt::End).unwrap();
    let mut wallet = wallet(MAX_SAFE_INTEGER, 0);
    wallet
        .start(ms(0), id(1), SlotNumber::default(), tariff)
        .unwrap();
    wallet.start_recorded(id(1), WalletVersion::new(1));
    wallet.advance(ms(MAX_SAFE_INTEGER - 10));
    let settlement = wallet.interim_settlement(id(1)).unwrap();
    wallet.settled(&settlement, WalletVersion::new(2));
    let refill = billing::Rebase {
        version: WalletVersion::new(3),
        ledger_balance: Credits::MAX,
        changes: vec![billing::BalanceChange {
            at: wallet.instant(),
            amount: schema::CreditsChange::incoming(credits(MAX_SAFE_INTEGER - 10)),
        }],
        live: vec![(
            id(1),
            billing::Settled {
                seq: 1,
                total: settlement.total,
            },
        )],
    };
    assert_eq!(wallet.rebase(wallet.instant(), &refill), []);
    assert_eq!(wallet.balance(), Credits::MAX);
    let end = wallet
        .stop(UnixMillis::MAX, id(1), EndReason::User)
        .unwrap();
    assert_eq!((end.consumed, end.served), (Credits::MAX, Millis::MAX));
    assert_eq!(wallet.balance().get(), MAX_SAFE_INTEGER - 10);
}
