//! Balances, ends and lists.

use super::*;
use crate::{countdown::Level, feed::FeedStatus, model::Tab};

#[test]
fn the_balance_is_what_the_server_said_last() {
    let mut test = Test::running();
    test.now = 162_050;
    test.say(update(73, 162_000, Some(session(1, 0, 100, 27))));
    assert_eq!((test.credits(), test.dashboard().whole.get()), (73, 100));
    test.wait(5_900);
    assert_eq!(test.credits(), 73, "time alone charges nothing");
}

#[test]
fn an_http_answer_may_be_overtaken() {
    let mut test = Test::running();
    test.say(update(73, 162_000, Some(session(1, 0, 100, 27))));
    test.answer(
        Call::Active,
        active(balance(74, 156_100, Some(session(1, 0, 100, 26)))),
    );
    assert_eq!(test.credits(), 73);
    test.answer(
        Call::Active,
        active(balance(72, 168_100, Some(session(1, 0, 100, 28)))),
    );
    assert_eq!(test.credits(), 72);
}

#[test]
fn a_socket_keeps_the_order_whatever_its_times_say() {
    let mut test = Test::running();
    test.answer(
        Call::Active,
        active(balance(99, 6_500, Some(session(1, 0, 100, 1)))),
    );
    test.say(update(99, 6_400, None));
    assert_eq!(test.session_id(), None);
}

#[test]
fn an_ended_session_stays_ended() {
    let mut test = Test::running();
    test.say(ended(1, EndReason::User, 7_000, 1, 99));
    test.answer(
        Call::Active,
        active(balance(99, 7_100, Some(session(1, 0, 100, 1)))),
    );
    assert_eq!((test.session_id(), test.credits()), (None, 99));
}

#[test]
fn a_new_session_starts_in_another_tab() {
    let mut test = Test::idle();
    let effects = test.say(ServerMessage::SessionStarted {
        session_id: session_id(1),
        started_at: unix(10),
    });
    assert_eq!(calls(&effects).first(), Some(&&Call::Active));
    assert!(reloads(&effects));
    test.say(update(100, 10, Some(session(1, 10, 100, 0))));
    assert_eq!(test.session_id(), Some(1));
    let effects = test.say(ServerMessage::SessionStarted {
        session_id: session_id(1),
        started_at: unix(10),
    });
    assert!(
        !calls(&effects).contains(&&Call::Active),
        "it is shown already"
    );
}

#[test]
fn an_end_is_said_once_and_in_its_way() {
    let check = |reason, notice: &[&str], announced: &str| {
        // The end before the balance, and the other way round.
        for balance_first in [false, true] {
            let mut test = Test::running();
            let idle = update(40, 360_000, None);
            let over = ended(1, reason, 360_000, 60, 40);
            let messages = if balance_first {
                [idle, over]
            } else {
                [over, idle]
            };
            for message in messages {
                test.say(message);
            }
            test.say(ended(1, reason, 360_000, 60, 40));
            let dashboard = test.dashboard();
            assert_eq!(
                (test.session_id(), test.credits(), dashboard.unexplained),
                (None, 40, None)
            );
            assert_eq!(test.notices(), notice, "{reason:?}");
            assert_eq!(dashboard.is_end_card_up, notice.is_empty());
            assert!(
                test.state.announcement.starts_with(announced),
                "{}",
                test.state.announcement
            );
        }
    };
    check(
        EndReason::User,
        &["Session stopped: 60 credits for 6 min 0 s."],
        "Session started.",
    );
    let over = "The session is over: 60 credits for 6 min 0 s.";
    check(
        EndReason::Depleted,
        &[],
        &format!("Your credits ran out. {over}"),
    );
    check(
        EndReason::Admin,
        &[],
        &format!("An operator stopped your session. {over}"),
    );
    check(
        EndReason::Engine,
        &[],
        &format!("The service ended your session. {over}"),
    );
}

#[test]
fn an_end_that_was_missed_is_looked_up() {
    let mut test = Test::running();
    test.close(1006);
    test.wait(1_000);
    test.now = 700_000;
    test.say(update(0, 700_000, None));
    assert!(test.dashboard().unexplained.is_some());

    let effects = test.act(Action::RetryPressed);
    let ask = calls(&effects).first().copied().cloned().unwrap();
    test.answer(
        ask,
        sessions(vec![record(1, Some((600_000, EndReason::Depleted)), 100)]),
    );
    assert!(test.dashboard().is_end_card_up && test.dashboard().unexplained.is_none());
    assert!(
        test.state
            .announcement
            .contains("100 credits for 10 min 0 s"),
        "{}",
        test.state.announcement
    );
}

#[test]
fn the_history_knows_how_long_it_was_served() {
    let mut test = Test::running();
    test.say(ended(1, EndReason::User, 31_000, 4, 96));
    assert_eq!(test.notices(), ["Session stopped: 4 credits for 31 s."]);
    let effects = test.act(Action::RetryPressed);
    let ask = calls(&effects).first().copied().cloned().unwrap();
    let record = SessionRecord {
        served_ms: ms(28_000),
        ..record(1, Some((31_000, EndReason::User)), 4)
    };
    test.answer(ask, sessions(vec![record]));
    assert_eq!(test.notices(), ["Session stopped: 4 credits for 28 s."]);
}

#[test]
fn the_last_session_is_known_after_a_reload_too() {
    let mut test = Test::idle();
    assert_eq!(test.dashboard().latest_end(), None);
    let effects = test.act(Action::RetryPressed);
    let ask = calls(&effects).first().copied().cloned().unwrap();
    let over = record(1, Some((31_000, EndReason::User)), 5);
    test.answer(ask, sessions(vec![over]));
    let end = test.dashboard().latest_end().unwrap();
    assert_eq!((end.consumed.get(), end.length()), (5, Some(ms(31_000))));
    assert_eq!(test.notices(), Vec::<&str>::new(), "it is no news");
}

#[test]
fn a_list_that_does_not_know_the_end_yet_explains_nothing() {
    let mut test = Test::running();
    test.say(update(0, 600_000, None));
    let effects = test.act(Action::RetryPressed);
    let ask = calls(&effects).first().copied().cloned().unwrap();
    test.answer(ask, sessions(vec![record(1, None, 99)]));
    assert!(test.dashboard().unexplained.is_some() && !test.dashboard().is_end_card_up);
}

#[test]
fn the_card_goes_away() {
    for action in [Action::EndCardDismissed, Action::EscapePressed] {
        let mut test = Test::running();
        test.say(ended(1, EndReason::Depleted, 600_000, 100, 0));
        assert!(test.dashboard().is_end_card_up);
        test.act(action);
        assert!(!test.dashboard().is_end_card_up);
    }
}

#[test]
fn escape_takes_the_newest_notice_first() {
    let mut test = Test::running();
    test.say(ended(1, EndReason::Engine, 60_000, 10, 90));
    test.say(ServerMessage::CreditsAdded {
        amount: amount(50),
        credits: amount(140),
    });
    test.act(Action::EscapePressed);
    assert_eq!(
        (test.notices().len(), test.dashboard().is_end_card_up),
        (0, true)
    );
}

#[test]
fn low_is_announced_once() {
    let mut test = Test::running();
    test.now = 540_000;
    test.say(update(10, 540_000, Some(session(1, 0, 100, 90))));
    assert_eq!(test.dashboard().level, Level::Low);
    assert_eq!(
        test.state.announcement,
        "Credits are low. 10 credits, 1 min 0 s left."
    );
    test.wait(1_000);
    assert_eq!(
        test.state.announcement,
        "Credits are low. 10 credits, 1 min 0 s left."
    );
    test.now = 590_000;
    test.say(update(2, 588_000, Some(session(1, 0, 100, 98))));
    assert_eq!(test.dashboard().level, Level::Last);
}

#[test]
fn the_server_may_call_it_low_earlier() {
    let mut test = Test::running();
    test.now = 400_000;
    test.say(update(34, 396_000, Some(session(1, 0, 100, 66))));
    test.say(ServerMessage::BalanceLow {
        credits: amount(34),
        seconds_left: 200,
    });
    assert_eq!(test.dashboard().level, Level::Low);
    test.say(ServerMessage::CreditsAdded {
        amount: amount(100),
        credits: amount(134),
    });
    test.wait(1_000);
    assert_eq!(test.dashboard().level, Level::Fine, "there is enough again");
    assert_eq!(test.notices(), ["100 credits added to your wallet."]);
}

#[test]
fn a_screen_reader_hears_each_ten() {
    let mut test = Test::running();
    assert_eq!(
        test.state.announcement,
        "Session started. 100 credits, 10 min 0 s left."
    );
    let mut heard = Vec::new();
    for consumed in 1..=40 {
        test.now = consumed * 6_000;
        let before = test.state.announcement.clone();
        test.say(update(
            100 - consumed,
            test.now,
            Some(session(1, 0, 100, consumed)),
        ));
        if test.state.announcement != before {
            heard.push(test.credits());
        }
    }
    assert_eq!(heard, [90, 80, 70, 60]);
}

#[test]
fn the_ring_counts_from_what_there_was() {
    let mut test = Test::running();
    test.say(update(90, 60_000, Some(session(1, 0, 100, 10))));
    assert_eq!(test.dashboard().whole.get(), 100);
    test.say(update(140, 61_000, Some(session(1, 0, 150, 10))));
    assert_eq!(test.dashboard().whole.get(), 150, "what came in counts");
    test.say(update(100, 61_500, Some(session(1, 0, 110, 10))));
    assert_eq!(test.dashboard().whole.get(), 110, "so does what went");
    test.say(update(140, 61_700, Some(session(1, 0, 150, 10))));
    let mut reloaded = Test::opened();
    reloaded.say(update(140, 61_800, Some(session(1, 0, 150, 10))));
    assert_eq!(reloaded.dashboard().whole, test.dashboard().whole);

    test.say(ended(1, EndReason::User, 62_000, 10, 140));
    assert_eq!(test.dashboard().whole.get(), 140, "nothing is used up");
    let mut reloaded = Test::opened();
    reloaded.say(update(140, 63_000, None));
    assert_eq!(reloaded.dashboard().whole, test.dashboard().whole);
    test.say(update(140, 70_000, Some(session(2, 70_000, 140, 0))));
    assert_eq!(test.dashboard().whole.get(), 140);
}

#[test]
fn what_an_operator_does_is_read_again_and_said() {
    let check = |mut test: Test, message: ServerMessage, notices: &[&str]| {
        let ask = test.act(Action::TabChosen(Tab::Wallet));
        let ask = calls(&ask).first().copied().cloned().unwrap();
        test.answer(ask, movements(&[9], None));
        let effects = test.say(message);
        let is_ledger = |call: &&Call| matches!(call, Call::Ledger(_));
        assert_eq!(reloads(&effects), !notices.is_empty());
        assert_eq!(calls(&effects).iter().any(is_ledger), !notices.is_empty());
        assert_eq!(test.notices(), notices);
    };
    let taken = ["40 credits taken out of your wallet."];
    check(Test::idle(), update(60, 50, None), &taken);
    // One credit of these 41 is the session's own cost.
    check(
        Test::running(),
        update(59, 6_000, Some(session(1, 0, 60, 1))),
        &taken,
    );
    check(Test::idle(), update(100, 50, None), &[]);
    check(
        Test::running(),
        update(99, 6_000, Some(session(1, 0, 100, 1))),
        &[],
    );

    // The server itself tells of credits that come in.
    let mut test = Test::running();
    assert!(reloads(&test.say(update(
        150,
        10,
        Some(session(1, 0, 150, 0))
    ))));
    test.say(ServerMessage::CreditsAdded {
        amount: amount(50),
        credits: amount(150),
    });
    assert_eq!(test.notices(), ["50 credits added to your wallet."]);
}

#[test]
fn the_wallet_is_asked_for_when_it_is_opened() {
    let mut test = Test::idle();
    assert_eq!(test.dashboard().ledger.status(), &FeedStatus::Unasked);
    let effects = test.act(Action::TabChosen(Tab::Wallet));
    let ask = calls(&effects).first().copied().cloned().unwrap();
    assert!(matches!(ask, Call::Ledger(_)));
    test.answer(ask, movements(&[9, 8], Some("c")));
    assert_eq!(test.act(Action::TabChosen(Tab::Sessions)), []);
    assert_eq!(test.act(Action::TabChosen(Tab::Wallet)), [], "once");

    let effects = test.act(Action::MorePressed);
    assert_eq!(
        test.act(Action::MorePressed),
        [],
        "a double click asks once"
    );
    let ask = calls(&effects).first().copied().cloned().unwrap();
    test.answer(ask, movements(&[7], None));
    assert_eq!(test.dashboard().ledger.rows().len(), 3);

    let effects = test.say(ServerMessage::CreditsAdded {
        amount: amount(5),
        credits: amount(105),
    });
    assert!(
        calls(&effects)
            .iter()
            .any(|call| matches!(call, Call::Ledger(_))),
        "what moved is shown"
    );
}

#[test]
fn a_list_that_failed_can_be_asked_for_again() {
    let mut test = Test::idle();
    let effects = test.act(Action::RetryPressed);
    let ask = calls(&effects).first().copied().cloned().unwrap();
    test.refuse(ask, Failure::NoConnection);
    let sentence = Failure::NoConnection.sentence();
    assert_eq!(
        test.dashboard().sessions.status(),
        &FeedStatus::Failed(sentence)
    );
    assert!(reloads(&test.act(Action::RetryPressed)));
    assert_eq!(test.dashboard().sessions.status(), &FeedStatus::Loading);
}
