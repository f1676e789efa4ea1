//! The connection.

use super::*;
use crate::{
    action::Network,
    countdown::Level,
    model::LinkPhase,
    reducer::{CONNECT_WITHIN, HEARTBEAT, SILENCE_MAX},
};

/// How long the page waits before it connects again, if it waits.
fn waits(test: &Test) -> Option<i64> {
    match test.dashboard().link.phase {
        LinkPhase::Waiting { until } => {
            Some(until.since(LocalTime::new(test.now + AHEAD_MS)).get())
        }
        _ => None,
    }
}

#[test]
fn is_live_with_the_first_balance() {
    let mut test = Test::opened();
    test.say(ended(1, EndReason::User, 0, 1, 99));
    assert!(
        !test.dashboard().is_live(),
        "what isn't a balance comes too early"
    );
    test.say(update(100, 0, None));
    assert!(test.dashboard().is_live());
}

#[test]
fn comes_back_later_and_later() {
    let mut test = Test::idle();
    test.close(1006);
    for longest in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000] {
        let wait = waits(&test).unwrap();
        assert!(
            (longest / 2..=longest).contains(&wait),
            "{wait} of {longest}"
        );
        assert_eq!(test.wait(wait - 1), []);
        assert!(connects(&test.wait(1)));
        test.close(1006);
    }
    for _ in 0..100 {
        test.wait(30_000);
        test.close(1006);
    }
    assert!(waits(&test).unwrap() <= 30_000);
}

#[test]
fn waits_by_chance() {
    let wait = |entropy| {
        let mut test = Test::idle();
        test.entropy = entropy;
        test.close(1001);
        waits(&test).unwrap()
    };
    assert_eq!((wait(0), wait(u128::MAX - 1)), (500, 999));
}

#[test]
fn the_code_tells_how_to_come_back() {
    let check = |code, wait: Option<std::ops::RangeInclusive<i64>>| {
        let mut test = Test::idle();
        let effects = test.close(code);
        assert_eq!(connects(&effects), wait.is_none(), "{code}");
        assert_eq!(waits(&test).is_some(), wait.is_some(), "{code}");
        if let Some((wait, waits)) = wait.zip(waits(&test)) {
            assert!(wait.contains(&waits), "{code} {waits}");
        }
    };
    check(1000, Some(500..=1_000));
    check(1001, Some(500..=1_000));
    check(1006, Some(500..=1_000));
    check(1009, Some(500..=1_000));
    check(1013, Some(5_000..=10_000));
    check(4000, None);
}

#[test]
fn a_server_that_always_finds_us_slow_is_not_hammered() {
    let mut test = Test::idle();
    assert!(connects(&test.close(4000)));
    assert!(!connects(&test.close(4000)));
    assert!(waits(&test).is_some());
}

#[test]
fn catches_up_once_it_is_back() {
    let mut test = Test::idle();
    test.close(1006);
    test.wait(1_000);
    let effects = test.say(update(90, 5_000, None));
    assert!(reloads(&effects) && calls(&effects).contains(&&Call::WhoAmI));
    assert_eq!((test.credits(), test.dashboard().link.failures), (90, 0));
    test.close(1006);
    assert!(waits(&test).unwrap() <= 1_000, "the next loss begins anew");
}

#[test]
fn what_an_old_socket_says_is_void() {
    let mut test = Test::idle();
    let old = test.dashboard().link.socket;
    test.close(1006);
    let before = test.state.clone();
    test.act(Action::SocketSaid(old, update(1, 99_999, None)));
    test.act(Action::SocketClosed(old, 1008, String::new()));
    assert_eq!(test.state, before);
}

#[test]
fn a_socket_that_never_speaks_is_given_up() {
    let mut test = Test::opened();
    assert_eq!(test.wait(CONNECT_WITHIN.get() - 1), []);
    assert_eq!(test.wait(1), [Effect::Disconnect]);
    assert!(waits(&test).is_some());
}

#[test]
fn a_socket_that_falls_silent_is_dead_whether_a_session_runs_or_not() {
    for mut test in [Test::idle(), Test::running()] {
        for _ in 0..3 {
            assert_eq!(test.wait(SILENCE_MAX.get() - 1), []);
            let (credits, session) = (test.credits(), test.dashboard().session());
            test.say(update(credits, 0, session));
        }
        assert_eq!(test.wait(SILENCE_MAX.get() - 1), []);
        assert!(connects(&test.wait(1)));
        assert!(test.dashboard().link.is_lost());
    }
    const { assert!(SILENCE_MAX.get() > 2 * HEARTBEAT.get()) };
}

#[test]
fn no_time_runs_on_without_the_server() {
    let mut test = Test::running();
    test.now = 7_000;
    test.say(update(99, 6_000, Some(session(1, 0, 100, 1))));
    let known_until = |test: &Test| {
        test.dashboard()
            .known_until(LocalTime::new(test.now + AHEAD_MS))
    };
    test.now = 9_000;
    assert_eq!(known_until(&test), LocalTime::new(9_000 + AHEAD_MS));
    test.close(1006);
    for _ in 0..3 {
        test.wait(60_000);
        assert_eq!(known_until(&test), LocalTime::new(7_000 + AHEAD_MS));
        assert_eq!(
            test.dashboard().level,
            Level::Fine,
            "nor does the end come near"
        );
    }
    test.act(Action::ReconnectPressed);
    test.say(update(90, 190_000, Some(session(1, 120_000, 100, 10))));
    assert_eq!(known_until(&test), LocalTime::new(test.now + AHEAD_MS));
}

#[test]
fn a_refused_connection_says_the_reason_and_the_balance_comes_another_way() {
    let mut test = Test::opened();
    for _ in 0..3 {
        let socket = test.dashboard().link.socket;
        let reason = "Too many connections".to_owned();
        let effects = test.act(Action::SocketClosed(socket, 1013, reason.clone()));
        assert_eq!(calls(&effects), [&Call::Active]);
        assert_eq!(test.dashboard().link.refusal, Some(reason));
        test.answer(Call::Active, active(balance(100, test.now, None)));
        assert_eq!(test.credits(), 100);
        test.wait(30_000);
    }
    test.close(1006);
    assert_eq!(
        test.dashboard().link.refusal,
        None,
        "it is another trouble now"
    );
    test.act(Action::ReconnectPressed);
    let socket = test.dashboard().link.socket;
    test.act(Action::SocketClosed(
        socket,
        1013,
        "Try again later".to_owned(),
    ));
    test.act(Action::ReconnectPressed);
    test.say(update(100, test.now, None));
    assert_eq!(test.dashboard().link.refusal, None);
}

#[test]
fn hurries_when_there_is_reason_to() {
    for action in [
        Action::ReconnectPressed,
        Action::NetworkChanged(Network::Online),
        Action::Shown,
    ] {
        let mut test = Test::idle();
        test.close(1006);
        assert!(connects(&test.act(action.clone())), "{action:?}");
        assert!(!connects(&test.act(action)), "once");
    }
    let mut test = Test::idle();
    assert_eq!(test.act(Action::ReconnectPressed), []);
    assert_eq!(
        calls(&test.act(Action::Shown)),
        [&Call::Active],
        "what looks alive is checked"
    );
}

#[test]
fn a_page_that_is_left_gives_its_connection_back() {
    let mut test = Test::running();
    assert_eq!(test.act(Action::Left), [Effect::Disconnect]);
    assert!(test.dashboard().link.is_lost());
    assert!(
        connects(&test.act(Action::Shown)),
        "the user came back to it"
    );
}

#[test]
fn offline_is_a_hint_and_no_more() {
    let mut test = Test::idle();
    assert_eq!(test.act(Action::NetworkChanged(Network::Offline)), []);
    assert!(test.dashboard().is_live() && !test.state.is_online);
    test.close(1006);
    assert!(
        connects(&test.wait(1_000)),
        "the server may be on this very machine"
    );
}
