//! The wallet by example: the worked example of law 2, every rejection in the order it is tried, and
//! the decisions that are taken anew.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use billing::{
    BalanceChange, ChargedAt, End, Meter, Rebase, Session, Settled, SlotNumber, StartRejection,
    StopRejection, Tariff, Wallet, WalletVersion,
};
use schema::{Credits, CreditsChange, Millis, SessionId, UnixMillis, UserId, session::EndReason};

fn credits(credits: i64) -> Credits {
    Credits::new(credits).unwrap()
}

fn ms(millis: i64) -> UnixMillis {
    UnixMillis::new(millis).unwrap()
}

fn id(id: i64) -> SessionId {
    SessionId::new(id).unwrap()
}

fn tariff(price: i64, interval_ms: i64, charged_at: ChargedAt) -> Tariff {
    Tariff::new(
        credits(price),
        Millis::new(interval_ms).unwrap(),
        charged_at,
    )
    .unwrap()
}

/// 1 credit every 6 seconds.
fn usual() -> Tariff {
    tariff(1, 6_000, ChargedAt::End)
}

fn wallet_with(opening: i64, sessions: Vec<Session>) -> Wallet {
    Wallet::new(
        UserId::new(7).unwrap(),
        WalletVersion::new(40),
        credits(opening),
        ms(0),
        sessions,
    )
}

fn wallet(opening: i64) -> Wallet {
    wallet_with(opening, Vec::new())
}

/// A wallet with session 1, started at 0 and recorded.
fn wallet_in_session(opening: i64, tariff: Tariff) -> Wallet {
    let mut wallet = wallet(opening);
    wallet
        .start(ms(0), id(1), SlotNumber::default(), tariff)
        .unwrap();
    wallet.start_recorded(id(1), WalletVersion::new(41));
    wallet
}

/// What the database says after others have made `changes` to a wallet that had `opening`.
fn news(opening: i64, version: i64, changes: &[(i64, i64)], live: &[(i64, Settled)]) -> Rebase {
    let changes = changes.iter().map(|(at_ms, amount)| BalanceChange {
        at: ms(*at_ms),
        amount: CreditsChange::try_from(*amount).unwrap(),
    });
    let changes: Vec<_> = changes.collect();
    let sum: i64 = changes.iter().map(|change| change.amount.get()).sum();
    Rebase {
        version: WalletVersion::new(version),
        ledger_balance: credits(opening + sum),
        changes,
        live: live
            .iter()
            .map(|(number, settled)| (id(*number), *settled))
            .collect(),
    }
}

fn end(at_ms: i64, reason: EndReason, consumed: i64, served_ms: i64) -> End {
    End {
        at: ms(at_ms),
        reason,
        consumed: credits(consumed),
        served: Millis::new(served_ms).unwrap(),
    }
}

#[test]
fn a_hundred_credits_last_ten_minutes() {
    for noticed_ms in [600_000, 600_001, 87_000_000] {
        let mut wallet = wallet_in_session(100, usual());
        wallet.advance(ms(5_999));
        assert_eq!(
            (wallet.balance(), wallet.free()),
            (credits(100), credits(99))
        );
        wallet.advance(ms(6_000));
        assert_eq!(
            (wallet.balance(), wallet.free()),
            (credits(99), credits(98))
        );
        assert_eq!(wallet.depletes_at(id(1)), Some(ms(600_000)));
        assert_eq!(wallet.next_boundary(id(1)), Some(ms(12_000)));
        wallet.advance(ms(599_999));
        assert_eq!((wallet.balance(), wallet.free()), (credits(1), credits(0)));
        assert_eq!(wallet.settlement_due(), None);

        wallet.advance(ms(noticed_ms));
        let settlement = wallet.settlement_due().unwrap();
        assert_eq!(
            (settlement.at, settlement.total, settlement.end),
            (ms(600_000), credits(100), Some(EndReason::Depleted))
        );
        assert_eq!(wallet.balance(), Credits::ZERO);
        let told = wallet.settled(&settlement, WalletVersion::new(42));
        assert_eq!(told, Some(end(600_000, EndReason::Depleted, 100, 600_000)));
        assert_eq!(
            (wallet.balance(), wallet.sessions()),
            (Credits::ZERO, [].as_slice())
        );
    }
}

#[test]
fn a_start_is_rejected_in_this_order() {
    let check = |what: &str, wallet: &Wallet, price, expected| {
        let before = wallet.clone();
        let mut wallet = wallet.clone();
        let now = wallet.instant();
        let told = wallet.start(
            now,
            id(9),
            SlotNumber::default(),
            tariff(price, 6_000, ChargedAt::End),
        );
        assert_eq!(told, expected, "{what}");
        assert!(
            told.is_ok() || wallet == before,
            "{what}: a rejection changes nothing"
        );
    };
    let live = wallet_in_session(10, usual());
    check(
        "live, and too dear",
        &live,
        11,
        Err(StartRejection::SessionActive),
    );
    check("live", &live, 1, Err(StartRejection::SessionActive));

    let mut settling = live.clone();
    settling.stop(ms(6_000), id(1), EndReason::User).unwrap();
    check(
        "ended and not recorded, and too dear",
        &settling,
        11,
        Err(StartRejection::Settling),
    );
    check(
        "ended and not recorded",
        &settling,
        1,
        Err(StartRejection::Settling),
    );

    let mut settled = settling.clone();
    let settlement = settled.settlement_due().unwrap();
    settled.settled(&settlement, WalletVersion::new(42));
    check(
        "1 of 10 used, and 10 needed",
        &settled,
        10,
        Err(StartRejection::InsufficientCredits),
    );
    check("1 of 10 used, and 9 needed", &settled, 9, Ok(()));
    check(
        "nothing there",
        &wallet(0),
        1,
        Err(StartRejection::InsufficientCredits),
    );

    // What another session holds is not free.
    let mut other_slot = live;
    let now = other_slot.instant();
    let told = other_slot.start(
        now,
        id(2),
        SlotNumber::new(1),
        tariff(10, 6_000, ChargedAt::End),
    );
    assert_eq!(told, Err(StartRejection::InsufficientCredits));
    assert_eq!(
        other_slot.start(
            now,
            id(2),
            SlotNumber::new(1),
            tariff(9, 6_000, ChargedAt::End)
        ),
        Ok(())
    );
}

#[test]
fn a_stop_is_rejected_where_nothing_lives() {
    let no_session = Err(StopRejection::NoActiveSession);
    let mut wallet = wallet_in_session(10, usual());
    assert_eq!(
        wallet.stop(ms(100), id(2), EndReason::User),
        no_session,
        "another session's id"
    );
    assert_eq!(wallet.abandon(id(2)), no_session);
    wallet.stop(ms(100), id(1), EndReason::User).unwrap();
    let settlement = wallet.settlement_due().unwrap();
    wallet.settled(&settlement, WalletVersion::new(42));
    assert_eq!(
        wallet.stop(ms(200), id(1), EndReason::User),
        no_session,
        "its end is recorded"
    );
    assert_eq!(wallet.abandon(id(1)), no_session);
    assert_eq!(
        (wallet.settlement_due(), wallet.interim_settlement(id(1))),
        (None, None)
    );
}

/// Law 7: a stop that comes before the end is durable gets that end, whoever caused it.
#[test]
fn the_first_end_stands() {
    let mut wallet = wallet_in_session(2, usual());
    let depleted = end(12_000, EndReason::Depleted, 2, 12_000);
    assert_eq!(
        wallet.stop(ms(12_500), id(1), EndReason::User),
        Ok(depleted)
    );
    assert_eq!(
        wallet.stop(ms(13_000), id(1), EndReason::Admin),
        Ok(depleted)
    );
}

#[test]
fn an_end_costs_what_was_begun_or_completed() {
    let check = |charged_at, at_ms, reason, consumed| {
        let mut wallet = wallet_in_session(100, tariff(5, 1_000, charged_at));
        assert_eq!(
            wallet.stop(ms(at_ms), id(1), reason),
            Ok(end(at_ms, reason, consumed, at_ms)),
            "{charged_at:?} {at_ms} {reason:?}"
        );
        assert_eq!(wallet.balance().get(), 100 - consumed);
    };
    check(ChargedAt::End, 0, EndReason::User, 0);
    check(ChargedAt::End, 999, EndReason::User, 0);
    check(ChargedAt::End, 1_000, EndReason::Admin, 5);
    check(ChargedAt::Start, 0, EndReason::User, 5);
    check(ChargedAt::Start, 999, EndReason::Engine, 5);
    check(ChargedAt::Start, 1_000, EndReason::User, 10);
    // The engine served nothing.
    check(ChargedAt::Start, 0, EndReason::Engine, 0);
}

/// Law 3: a start that nobody knows of ends where it began, for nothing, whatever happened since.
#[test]
fn an_abandoned_session_is_free() {
    let free = Ok(end(0, EndReason::Engine, 0, 0));
    for charged_at in [ChargedAt::End, ChargedAt::Start] {
        let in_session = || wallet_in_session(3, tariff(1, 1_000, charged_at));
        let check = |what: &str, mut wallet: Wallet| {
            assert_eq!(wallet.abandon(id(1)), free, "{what}");
            assert_eq!(
                (wallet.balance(), wallet.free()),
                (credits(3), credits(3)),
                "{what}"
            );
            let live = [(1, Settled::default())];
            wallet.rebase(wallet.instant(), &news(3, 43, &[(0, 5)], &live));
            assert_eq!(
                wallet.stop(ms(99_000), id(1), EndReason::User),
                free,
                "{what}, and credits came"
            );
        };
        check("at once", in_session());
        let mut later = in_session();
        later.advance(ms(2_500));
        check("later", later.clone());
        later.pause(ms(2_600));
        later.resume(ms(2_700));
        check("after a pause", later.clone());
        later.stop(ms(2_800), id(1), EndReason::User).unwrap();
        check("after a stop", later.clone());
        later.advance(ms(90_000));
        check("after depletion", later);
    }
}

#[test]
fn a_refused_start_never_was() {
    let mut wallet = wallet(10);
    wallet
        .start(ms(50), id(1), SlotNumber::default(), usual())
        .unwrap();
    let opening = wallet.unrecorded_start().unwrap();
    assert_eq!(
        (opening.version, opening.started_at),
        (WalletVersion::new(40), ms(50))
    );
    assert_eq!(
        (wallet.settlement_due(), wallet.interim_settlement(id(1))),
        (None, None)
    );
    wallet.start_refused(id(1));
    assert_eq!(
        (wallet.sessions(), wallet.free()),
        ([].as_slice(), credits(10))
    );
    // A recorded one can't be refused any more.
    let mut recorded = wallet_in_session(10, usual());
    recorded.start_refused(id(1));
    assert_eq!(recorded.sessions().len(), 1);
}

/// A session that was stopped before its start is durable waits for it: first the start is recorded.
#[test]
fn an_end_is_recorded_after_its_start() {
    let mut wallet = wallet(10);
    wallet
        .start(ms(0), id(1), SlotNumber::default(), usual())
        .unwrap();
    wallet.stop(ms(6_100), id(1), EndReason::User).unwrap();
    assert_eq!(wallet.settlement_due(), None);
    wallet.start_recorded(id(1), WalletVersion::new(41));
    let settlement = wallet.settlement_due().unwrap();
    assert_eq!(
        (settlement.version, settlement.seq, settlement.at),
        (WalletVersion::new(41), 1, ms(6_100))
    );
}

/// Credits that came before the depletion undo it, and the stop that came after it holds again.
#[test]
fn a_late_credit_undoes_a_depletion_and_keeps_a_stop() {
    let live = [(1, Settled::default())];
    let check = |what: &str, credit_ms, expected| {
        let mut wallet = wallet_in_session(2, usual());
        wallet.advance(ms(12_100));
        assert_eq!(
            wallet
                .stop(ms(20_000), id(1), EndReason::User)
                .unwrap()
                .reason,
            EndReason::Depleted
        );
        wallet.rebase(ms(21_000), &news(2, 43, &[(credit_ms, 10)], &live));
        assert_eq!(wallet.session(id(1)).unwrap().end, Some(expected), "{what}");
    };
    check("before it", 11_999, end(20_000, EndReason::User, 3, 20_000));
    check(
        "at its instant",
        12_000,
        end(20_000, EndReason::User, 3, 20_000),
    );
    check(
        "after it",
        12_001,
        end(12_000, EndReason::Depleted, 2, 12_000),
    );
}

/// A debit counts from its instant, and a wallet that hears of it late ends where it would have.
#[test]
fn a_late_debit_ends_a_session_in_the_past() {
    let live = [(1, Settled::default())];
    let mut wallet = wallet_in_session(100, usual());
    assert_eq!(
        wallet.rebase(ms(60_000), &news(100, 43, &[(7_000, -97)], &live)),
        []
    );
    assert_eq!(
        wallet.session(id(1)).unwrap().end,
        Some(end(18_000, EndReason::Depleted, 3, 18_000))
    );
    assert_eq!(
        (wallet.balance(), wallet.free()),
        (Credits::ZERO, Credits::ZERO)
    );
}

/// A start is a command: at its instant the intervals of others begin first, whatever the ids.
#[test]
fn a_start_waits_for_the_intervals_of_its_instant() {
    let mut wallet = wallet(7);
    wallet
        .start(ms(0), id(2), SlotNumber::new(2), usual())
        .unwrap();
    wallet.start_recorded(id(2), WalletVersion::new(41));
    wallet
        .start(ms(6_000), id(1), SlotNumber::new(1), usual())
        .unwrap();
    let live = [(2, Settled::default())];
    wallet.rebase(ms(6_000), &news(7, 42, &[(100, -5)], &live));
    assert_eq!(
        wallet.session(id(1)).unwrap().end,
        Some(end(6_000, EndReason::Depleted, 0, 0))
    );
    assert!(wallet.session(id(2)).unwrap().is_live());
}

/// A wake that comes late changes no charge, even where news comes before it.
#[test]
fn news_before_a_late_wake_changes_nothing() {
    let live = [(1, Settled::default())];
    let mut wallet = wallet_in_session(1, usual());
    // Nobody has woken the wallet since its start; it was empty at 6 s, and the credit came at 8 s.
    wallet.rebase(ms(9_000), &news(1, 43, &[(8_000, 50)], &live));
    assert_eq!(
        wallet.session(id(1)).unwrap().end,
        Some(end(6_000, EndReason::Depleted, 1, 6_000))
    );
    assert_eq!(wallet.balance(), credits(50));
}

/// A settlement of ours that is durable, though we never heard of it, and a credit after it.
#[test]
fn a_settlement_unheard_of_is_taken_over() {
    let mut wallet = wallet_in_session(10, usual());
    wallet.advance(ms(54_000));
    let unheard = wallet.interim_settlement(id(1)).unwrap();
    assert_eq!(unheard.total, credits(9));
    let live = [(
        1,
        Settled {
            seq: unheard.seq,
            total: unheard.total,
        },
    )];
    // 10 − 9 settled + 20 − 1: what there was before the changes is less than the credit alone.
    wallet.rebase(
        ms(66_000),
        &news(1, 44, &[(55_000, 20), (56_000, -1)], &live),
    );
    assert_eq!(
        (wallet.balance(), wallet.free()),
        (credits(18), credits(17))
    );
    assert_eq!(wallet.depletes_at(id(1)), Some(ms(29 * 6_000)));
    assert_eq!(wallet.interim_settlement(id(1)).unwrap().seq, 2);
}

#[test]
fn sessions_that_others_ended_are_told() {
    let mut wallet = wallet_in_session(10, usual());
    wallet
        .start(ms(100), id(2), SlotNumber::new(1), usual())
        .unwrap();
    let facts = news(9, 43, &[], &[]);
    assert_eq!(
        wallet.rebase(ms(200), &facts),
        [id(1)],
        "and one that is not recorded yet is kept"
    );
    assert_eq!(
        wallet
            .sessions()
            .iter()
            .map(|session| session.id)
            .collect::<Vec<_>>(),
        [id(2)]
    );
    assert_eq!(
        (wallet.balance(), wallet.version()),
        (credits(9), WalletVersion::new(43))
    );
}

/// Only a fault elsewhere overdraws a wallet. Then no session runs on for nothing.
#[test]
fn an_overdrawn_wallet_serves_nobody() {
    let recovered = |number: i64, served_ms| Session {
        id: id(number),
        slot: SlotNumber::new(i32::try_from(number).unwrap()),
        tariff: usual(),
        started_at: ms(0),
        meter: Meter::running(Millis::new(served_ms).unwrap(), ms(1_000_000)),
        settled: Settled::default(),
        end: None,
        is_recorded: true,
    };
    for sessions in [
        vec![recovered(1, 20_500)],
        vec![recovered(1, 20_500), recovered(2, 500)],
    ] {
        let mut wallet = wallet_with(3, sessions);
        wallet.advance(ms(1_000_000));
        let lives = wallet
            .sessions()
            .iter()
            .filter(|session| session.is_live())
            .count();
        assert_eq!(lives, 0);
        assert_eq!(
            (wallet.balance(), wallet.free()),
            (Credits::ZERO, Credits::ZERO)
        );
        assert_eq!(
            wallet.session(id(1)).unwrap().end,
            Some(end(1_000_000, EndReason::Depleted, 3, 20_500))
        );
    }
}

#[test]
fn an_unrecorded_start_can_count_from_later() {
    let started = |tariff| {
        let mut wallet = wallet(2);
        let slot = SlotNumber::default();
        wallet.start(ms(1_000), id(1), slot, tariff).unwrap();
        wallet
    };
    let mut wallet = started(usual());
    wallet.restart(ms(8_000), id(1));
    assert_eq!(wallet.unrecorded_start().unwrap().started_at, ms(8_000));
    assert_eq!(wallet.depletes_at(id(1)), Some(ms(20_000)));

    // A stop came after it; and it had been thought to have run out of credits.
    let mut wallet = started(usual());
    wallet.stop(ms(7_500), id(1), EndReason::User).unwrap();
    wallet.restart(ms(8_000), id(1));
    let stopped = Some(end(8_000, EndReason::User, 0, 0));
    assert_eq!(wallet.session(id(1)).unwrap().end, stopped);
    let mut wallet = started(usual());
    wallet.advance(ms(30_000));
    wallet.restart(ms(30_000), id(1));
    assert_eq!(wallet.depletes_at(id(1)), Some(ms(42_000)));

    // One that is recorded counts from when it did.
    let mut wallet = wallet_in_session(10, usual());
    let before = wallet.clone();
    wallet.restart(ms(8_000), id(1));
    assert_eq!(wallet, before);
}

/// Rule R: what ended first is recorded first, whatever the ids; of two ends at once the lower id.
#[test]
fn ends_are_recorded_in_the_order_of_their_instants() {
    let check = |stops: &[(i64, i64)], order: &[i64]| {
        let mut wallet = wallet(1_000);
        for (slot, number) in (0..).zip(1..=3) {
            let slot = SlotNumber::new(slot);
            wallet.start(ms(0), id(number), slot, usual()).unwrap();
            wallet.start_recorded(id(number), WalletVersion::new(40 + number));
        }
        for (at_ms, number) in stops {
            wallet
                .stop(ms(*at_ms), id(*number), EndReason::User)
                .unwrap();
        }
        let mut recorded = Vec::new();
        while let Some(due) = wallet.settlement_due() {
            recorded.push(due.session.get());
            wallet.settled(&due, wallet.version().next());
        }
        assert_eq!(recorded, order, "{stops:?}");
    };
    check(&[(899_000, 2), (900_000, 1)], &[2, 1]);
    check(&[(899_000, 3), (900_000, 2), (901_000, 1)], &[3, 2, 1]);
    check(&[(5_000, 1), (5_000, 3), (5_000, 2)], &[1, 2, 3]);
    check(&[(5_000, 3), (6_000, 1), (6_000, 2)], &[3, 1, 2]);
}

/// Charged at the start, paused at once, settled, and then ended by the engine.
#[test]
fn an_end_never_costs_less_than_is_settled() {
    let check = |charged_at, pause_ms: Option<i64>, reason, consumed| {
        let mut wallet = wallet_in_session(100, tariff(3, 6_000, charged_at));
        if let Some(pause_ms) = pause_ms {
            wallet.pause(ms(pause_ms));
        }
        wallet.advance(ms(900_000));
        if let Some(interim) = wallet.interim_settlement(id(1)) {
            wallet.settled(&interim, WalletVersion::new(42));
        }
        let stopped = wallet.stop(ms(900_500), id(1), reason).unwrap();
        assert_eq!(
            stopped.consumed,
            credits(consumed),
            "{charged_at:?} {pause_ms:?}"
        );
        let due = wallet.settlement_due().unwrap();
        assert!(due.total >= wallet.session(id(1)).unwrap().settled.total);
        wallet.settled(&due, WalletVersion::new(43));
        assert_eq!(wallet.balance(), credits(100 - consumed));
    };
    check(ChargedAt::Start, Some(0), EndReason::Engine, 3);
    check(ChargedAt::Start, Some(0), EndReason::User, 3);
    check(ChargedAt::Start, Some(7_000), EndReason::Engine, 6);
    check(ChargedAt::End, Some(0), EndReason::Engine, 0);
    check(ChargedAt::End, Some(7_000), EndReason::Engine, 3);
}
