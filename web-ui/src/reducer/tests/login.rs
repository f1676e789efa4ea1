//! How a login begins and ends.

use super::*;
use crate::{action::Target, model::EntryMode};

/// Why the card is shown, and whether the token is forgotten.
fn check_out(test: &Test, effects: &[Effect], reason: &str) {
    assert_eq!(test.entry().reason.as_deref(), Some(reason));
    assert_eq!(test.entry().mode, EntryMode::LogIn);
    for effect in [
        Effect::Disconnect,
        Effect::Forget(token("t")),
        Effect::Focus(Target::Email),
    ] {
        assert!(effects.contains(&effect), "{effect:?}");
    }
}

const ENDED: &str =
    "You were signed out: this login has expired or was ended elsewhere. Please log in again.";

const ENDED_AND_RUNS_ON: &str = "You were signed out: this login has expired or was ended elsewhere. \
     Please log in again. Your session runs on and uses credits: log in to stop it.";

#[test]
fn a_first_visit_shows_the_card() {
    let mut test = Test::new();
    assert_eq!(test.act(Action::Opened(None)), []);
    assert_eq!(test.entry(), &Entry::new(EntryMode::SignUp, None));
}

#[test]
fn a_refresh_loses_nothing() {
    let mut test = Test::new();
    let effects = test.act(Action::Opened(Some(token("t"))));
    assert!(connects(&effects) && reloads(&effects) && calls(&effects).contains(&&Call::WhoAmI));
    assert_eq!(test.dashboard().live, None);
    let user = user(73, 162_000, Some(session(1, 0, 100, 27)));
    test.answer(Call::WhoAmI, Answer::User(Box::new(user)));
    assert_eq!(
        (
            test.credits(),
            test.session_id(),
            test.dashboard().whole.get()
        ),
        (73, Some(1), 100)
    );
}

#[test]
fn any_answer_may_end_the_login() {
    for call in [
        Call::WhoAmI,
        Call::Active,
        Call::Start(crate::api::IdempotencyKey::new(1)),
    ] {
        for code in [ErrorCode::InvalidToken, ErrorCode::TokenRequired] {
            let mut test = Test::running();
            let effects = test.refuse(call.clone(), no(code, None));
            check_out(&test, &effects, ENDED_AND_RUNS_ON);
        }
    }
}

#[test]
fn the_server_may_close_the_socket_for_good() {
    let mut test = Test::running();
    let effects = test.close(1008);
    check_out(&test, &effects, ENDED_AND_RUNS_ON);

    let mut test = Test::opened();
    let effects = test.close(1008);
    check_out(&test, &effects, ENDED);
}

#[test]
fn logging_out_needs_no_network() {
    let mut test = Test::idle();
    let login = test.state.login;
    let effects = test.act(Action::LogOutPressed);
    check_out(&test, &effects, "You are logged out.");
    assert_eq!(calls(&effects), [&Call::LogOut]);

    test.act(Action::Answered(
        login,
        Call::LogOut,
        Err(Failure::NoConnection),
    ));
    assert_eq!(
        test.notices().len(),
        1,
        "that the server doesn't know is said"
    );
    test.state.notices.clear();
    test.act(Action::Answered(
        login,
        Call::LogOut,
        Err(no(ErrorCode::InvalidToken, None)),
    ));
    test.act(Action::Answered(login, Call::LogOut, Ok(Answer::LoggedOut)));
    assert_eq!(test.notices(), Vec::<&str>::new());
}

#[test]
fn logging_out_does_not_stop_a_session() {
    let mut test = Test::running();
    let effects = test.act(Action::LogOutPressed);
    check_out(
        &test,
        &effects,
        "You are logged out. Your session runs on and uses credits: log in to stop it.",
    );
}

#[test]
fn tabs_log_in_and_out_together() {
    let mut test = Test::idle();
    assert_eq!(
        test.act(Action::TokenChanged(Some(token("t")))),
        [],
        "its own token is no news"
    );

    let effects = test.act(Action::TokenChanged(None));
    check_out(&test, &effects, "You logged out in another tab.");
    assert_eq!(test.act(Action::TokenChanged(None)), []);

    let effects = test.act(Action::TokenChanged(Some(token("u"))));
    assert!(connects(&effects));
    assert_eq!(test.dashboard().token, token("u"));
    let effects = test.act(Action::TokenChanged(Some(token("v"))));
    assert!(connects(&effects));
    assert_eq!(
        (&test.dashboard().token, test.dashboard().live),
        (&token("v"), None),
        "nothing of the other user stays"
    );
}

#[test]
fn another_user_in_another_tab_is_said_until_it_is_read() {
    let named = |email: &str| {
        let user = User {
            email: email.to_owned(),
            ..user(100, 0, None)
        };
        Answer::User(Box::new(user))
    };
    let mut test = Test::idle();
    test.answer(Call::WhoAmI, named("ada@example.com"));
    test.act(Action::TokenChanged(Some(token("u"))));
    assert_eq!(
        test.notices(),
        ["Another tab logged in. This one follows it."]
    );
    test.answer(Call::WhoAmI, named("bob@example.com"));
    test.wait(1_000_000);
    assert_eq!(
        test.notices(),
        [
            "Another tab logged in as bob@example.com. This one shows that account now, and no longer \
          ada@example.com."
        ]
    );

    test.act(Action::TokenChanged(Some(token("v"))));
    test.answer(Call::WhoAmI, named("bob@example.com"));
    assert_eq!(
        test.notices(),
        ["Another tab logged in. This one follows it."],
        "the same user again"
    );
}

#[test]
fn nothing_that_was_said_stays_for_the_next_user() {
    for action in [
        Action::LogOutPressed,
        Action::TokenChanged(None),
        Action::TokenChanged(Some(token("u"))),
    ] {
        let mut test = Test::running();
        assert_ne!(test.state.announcement, "");
        test.act(action.clone());
        assert_eq!(test.state.announcement, "", "{action:?}");
    }
}

#[test]
fn answers_to_an_earlier_login_are_stale() {
    let mut test = Test::idle();
    let login = test.state.login;
    test.act(Action::TokenChanged(Some(token("u"))));
    let before = test.state.clone();
    test.act(Action::Answered(
        login,
        Call::WhoAmI,
        Err(no(ErrorCode::InvalidToken, None)),
    ));
    test.act(Action::Answered(
        login,
        Call::Active,
        Ok(active(balance(5, 9_999, None))),
    ));
    assert_eq!(test.state, before);
}
