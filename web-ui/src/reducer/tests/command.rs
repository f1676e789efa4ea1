//! Starting and stopping.

use super::*;
use crate::{
    api::IdempotencyKey,
    model::{PendingPhase, Verb},
};

/// Presses start on an idle page. Returns the key.
fn start(test: &mut Test) -> IdempotencyKey {
    let effects = test.act(Action::StartPressed);
    match calls(&effects).as_slice() {
        [Call::Start(key)] => *key,
        other => panic!("not one start: {other:?}"),
    }
}

/// Presses stop while a session runs. Returns the key.
fn stop(test: &mut Test) -> IdempotencyKey {
    let effects = test.act(Action::StopPressed);
    match calls(&effects).as_slice() {
        [Call::Stop(key)] => *key,
        other => panic!("not one stop: {other:?}"),
    }
}

fn pending(test: &Test) -> Option<(Verb, PendingPhase)> {
    test.dashboard()
        .pending
        .map(|pending| (pending.verb, pending.phase))
}

#[test]
fn a_double_click_starts_once() {
    let mut test = Test::idle();
    start(&mut test);
    assert_eq!(test.act(Action::StartPressed), []);
    assert_eq!(pending(&test), Some((Verb::Start, PendingPhase::Sent)));
}

#[test]
fn nothing_is_sent_that_makes_no_sense() {
    let mut test = Test::opened();
    assert_eq!(
        test.act(Action::StartPressed),
        [],
        "the balance isn't known"
    );
    test.say(update(0, 0, None));
    assert_eq!(test.act(Action::StartPressed), [], "there are no credits");
    assert_eq!(test.act(Action::StopPressed), [], "no session runs");
    let mut test = Test::running();
    assert_eq!(test.act(Action::StartPressed), [], "one runs");
}

#[test]
fn a_start_ends_with_its_answer_or_its_session() {
    // The socket first.
    let mut test = Test::idle();
    let key = start(&mut test);
    test.say(update(100, 10, Some(session(1, 10, 100, 0))));
    assert_eq!(
        pending(&test),
        Some((Verb::Start, PendingPhase::Sent)),
        "its answer is still to come"
    );
    assert_eq!(test.answer(Call::Start(key), started(1, 10)), []);
    assert_eq!(pending(&test), None);

    // The answer first.
    let mut test = Test::idle();
    let key = start(&mut test);
    let effects = test.answer(Call::Start(key), started(1, 10));
    assert_eq!(
        calls(&effects),
        [&Call::Active],
        "the facts for the countdown are missing"
    );
    assert_eq!(pending(&test), Some((Verb::Start, PendingPhase::Done)));
    test.say(update(100, 10, Some(session(1, 10, 100, 0))));
    assert_eq!((pending(&test), test.session_id()), (None, Some(1)));

    // The answer alone: the socket is down.
    let mut test = Test::idle();
    test.close(1006);
    let key = start(&mut test);
    test.answer(Call::Start(key), started(1, 10));
    test.answer(
        Call::Active,
        active(balance(100, 20, Some(session(1, 10, 100, 0)))),
    );
    assert_eq!((pending(&test), test.session_id()), (None, Some(1)));

    // The facts don't come.
    let mut test = Test::idle();
    let key = start(&mut test);
    test.answer(Call::Start(key), started(1, 10));
    test.refuse(Call::Active, Failure::NoConnection);
    assert_eq!(pending(&test), None);
}

#[test]
fn a_stop_says_what_it_cost() {
    let mut test = Test::running();
    let key = stop(&mut test);
    assert_eq!(
        test.act(Action::StopPressed),
        [],
        "a double click stops once"
    );
    let effects = test.answer(
        Call::Stop(key),
        stopped(1, EndReason::User, 164_000, 27, 73),
    );
    assert!(reloads(&effects));
    assert_eq!(
        (pending(&test), test.session_id(), test.credits()),
        (None, None, 73)
    );
    assert_eq!(
        test.notices(),
        ["Session stopped: 27 credits for 2 min 44 s."]
    );
    assert!(!test.dashboard().is_end_card_up);

    test.say(update(73, 164_000, None));
    test.say(ended(1, EndReason::User, 164_000, 27, 73));
    assert_eq!(
        test.notices(),
        ["Session stopped: 27 credits for 2 min 44 s."],
        "said once"
    );
}

#[test]
fn a_stop_that_meets_the_end_reports_that_end() {
    let mut test = Test::running();
    let key = stop(&mut test);
    test.answer(
        Call::Stop(key),
        stopped(1, EndReason::Depleted, 600_000, 100, 0),
    );
    assert!(test.dashboard().is_end_card_up);
    assert_eq!((test.credits(), test.notices().len()), (0, 0));
}

#[test]
fn a_refusal_is_said_and_looked_into() {
    let check = |verb, code, retry_after: Option<i64>, notice: &str| {
        let mut test = if verb == Verb::Start {
            Test::idle()
        } else {
            Test::running()
        };
        let call = match verb {
            Verb::Start => Call::Start(start(&mut test)),
            Verb::Stop => Call::Stop(stop(&mut test)),
        };
        let effects = test.refuse(call, no(code, retry_after));
        assert_eq!(pending(&test), None);
        assert!(calls(&effects).contains(&&Call::Active) && reloads(&effects));
        assert_eq!(test.notices(), [notice]);
        let retry_at = retry_after.map(|wait| LocalTime::new(AHEAD_MS + wait));
        assert_eq!(
            test.state.notices.list()[0].retry.map(|retry| retry.at),
            retry_at
        );
    };
    check(
        Verb::Start,
        ErrorCode::SessionActive,
        None,
        "The session runs already.",
    );
    check(
        Verb::Start,
        ErrorCode::InsufficientCredits,
        None,
        "The session did not start. InsufficientCredits.",
    );
    check(
        Verb::Start,
        ErrorCode::Unavailable,
        Some(7_000),
        "The session did not start. Unavailable.",
    );
    check(
        Verb::Start,
        ErrorCode::RateLimited,
        Some(9_000),
        "The session did not start. RateLimited.",
    );
    check(
        Verb::Stop,
        ErrorCode::NoActiveSession,
        None,
        "The session is over already.",
    );
    check(
        Verb::Stop,
        ErrorCode::Internal,
        None,
        "The session did not stop. Internal.",
    );
}

#[test]
fn an_unknown_outcome_is_asked_for_with_the_same_key() {
    for failure in [
        no(ErrorCode::OutcomeUnknown, Some(3_000)),
        Failure::TimedOut,
        Failure::NoConnection,
    ] {
        let mut test = Test::idle();
        let key = start(&mut test);
        let wait = failure.retry_after().map_or(2_000, Millis::get);
        let effects = test.refuse(Call::Start(key), failure);
        assert_eq!(calls(&effects), [&Call::Active]);
        assert!(test.notices()[0].starts_with("It is not known yet whether the session started."));
        assert_eq!(
            test.act(Action::StartPressed),
            [],
            "a new one would be a second one"
        );

        assert_eq!(calls(&test.wait(wait - 1)), Vec::<&Call>::new());
        assert_eq!(calls(&test.wait(1)), [&Call::Start(key)]);
        test.answer(Call::Start(key), started(1, 10));
        assert_eq!(test.notices(), Vec::<&str>::new(), "the trouble is over");
    }
}

#[test]
fn an_unknown_start_is_known_once_its_session_shows() {
    let mut test = Test::idle();
    let key = start(&mut test);
    test.refuse(Call::Start(key), Failure::TimedOut);
    test.say(update(100, 10, Some(session(1, 10, 100, 0))));
    assert_eq!((pending(&test), test.notices().len()), (None, 0));
    assert_eq!(calls(&test.wait(2_000)), Vec::<&Call>::new());
}

#[test]
fn an_unknown_stop_is_known_once_the_session_is_over() {
    let mut test = Test::running();
    let key = stop(&mut test);
    test.refuse(Call::Stop(key), Failure::TimedOut);
    test.say(ended(1, EndReason::User, 60_000, 10, 90));
    assert_eq!((pending(&test), test.credits()), (None, 90));
    assert_eq!(
        test.notices().last(),
        Some(&"Session stopped: 10 credits for 1 min 0 s.")
    );
}

#[test]
fn asking_has_an_end() {
    let mut test = Test::idle();
    let key = start(&mut test);
    for _ in 0..4 {
        test.refuse(Call::Start(key), Failure::NoConnection);
        assert_eq!(calls(&test.wait(2_000)), [&Call::Start(key)]);
    }
    let effects = test.refuse(Call::Start(key), Failure::NoConnection);
    assert!(reloads(&effects) && calls(&effects).contains(&&Call::Active));
    assert_eq!(pending(&test), None);
    let said = test.notices();
    assert_eq!(said.len(), 1, "nothing that contradicts it: {said:?}");
    assert!(said[0].starts_with("It is not known whether the session started;"));

    test.refuse(Call::Active, Failure::NoConnection);
    assert_eq!(test.notices().len(), 1);
    test.answer(Call::Active, active(balance(100, 9_000, None)));
    assert_eq!(test.notices().len(), 0, "the page shows what became of it");
}

#[test]
fn an_unknown_outcome_is_spoken_of_once_whatever_the_reasons_are() {
    let mut test = Test::idle();
    let key = start(&mut test);
    for failure in [
        Failure::NoConnection,
        Failure::TimedOut,
        no(ErrorCode::OutcomeUnknown, None),
    ] {
        test.refuse(Call::Start(key), failure);
        assert_eq!(test.notices().len(), 1, "{:?}", test.notices());
        test.answer(Call::Active, active(balance(100, 10, None)));
        assert_eq!(test.notices().len(), 1, "it is still not known");
        test.wait(2_000);
    }
}

#[test]
fn an_answer_to_an_earlier_command_changes_nothing() {
    let mut test = Test::idle();
    start(&mut test);
    let before = test.state.clone();
    assert_eq!(
        test.refuse(Call::Start(IdempotencyKey::new(99)), Failure::TimedOut),
        []
    );
    assert_eq!(test.state, before);
}

#[test]
fn the_next_start_clears_the_table() {
    let mut test = Test::running();
    test.say(ended(1, EndReason::Engine, 60_000, 10, 90));
    assert!(test.dashboard().is_end_card_up);
    start(&mut test);
    assert!(!test.dashboard().is_end_card_up);
    assert_eq!(test.notices(), Vec::<&str>::new());
}
