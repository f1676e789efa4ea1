//! Signing up and logging in.

use super::*;
use crate::{
    action::Target,
    model::{EntryMode, Field},
};

fn typed(email: &str, password: &str) -> Action {
    Action::submitted(email.to_owned(), password.to_owned())
}

/// A page on which a signup with good fields is on its way, and its call.
fn busy(mode: EntryMode) -> (Test, Call) {
    let mut test = Test::new();
    if mode == EntryMode::LogIn {
        test.act(Action::ModeSwitched);
    }
    let effects = test.act(typed("ada@example.com", "correct horse"));
    let call = calls(&effects).first().copied().cloned().unwrap();
    (test, call)
}

#[test]
fn what_needs_no_server_is_said_at_once() {
    let check =
        |mode, email: &str, password: &str, at_email: Option<&str>, at_password: Option<&str>| {
            let mut test = Test::new();
            if mode == EntryMode::LogIn {
                test.act(Action::ModeSwitched);
            }
            let effects = test.act(typed(email, password));
            let entry = test.entry();
            assert_eq!(entry.email_error.as_deref(), at_email, "{email:?}");
            assert_eq!(entry.password_error.as_deref(), at_password, "{password:?}");
            let is_good = at_email.or(at_password).is_none();
            assert_eq!(entry.is_busy, is_good);
            let target = if at_email.is_some() {
                Target::Email
            } else {
                Target::Password
            };
            assert_eq!(
                effects.contains(&Effect::Focus(target)),
                !is_good,
                "the focus goes to the first error"
            );
            assert_eq!(calls(&effects).len(), usize::from(is_good));
        };
    let (no_email, no_password) = (Some("Enter your email address."), Some("Enter a password."));
    let short = Some("Too short: use 8 characters or more.");
    check(EntryMode::SignUp, " ", "", no_email, no_password);
    check(EntryMode::SignUp, "", "correct horse", no_email, None);
    check(EntryMode::SignUp, "ada@example.com", "horses7", None, short);
    check(EntryMode::SignUp, "ada@example.com", "horses-8", None, None);
    check(
        EntryMode::SignUp,
        "ada@example.com",
        &"x".repeat(1_025),
        None,
        Some("That is too long."),
    );
    // The server alone knows what passwords were allowed in the past.
    check(EntryMode::LogIn, "ada@example.com", "x", None, None);
    check(EntryMode::LogIn, "ada@example.com", "", None, no_password);
}

#[test]
fn one_click_sends_one_call() {
    let (mut test, call) = busy(EntryMode::SignUp);
    assert!(matches!(call, Call::SignUp(_)));
    assert_eq!(test.act(typed("ada@example.com", "correct horse")), []);
    test.act(Action::ModeSwitched);
    assert_eq!(
        test.entry().mode,
        EntryMode::SignUp,
        "the card doesn't turn while it is busy"
    );
    assert!(matches!(busy(EntryMode::LogIn).1, Call::LogIn(_)));
}

#[test]
fn a_reason_stands_where_it_belongs() {
    enum At {
        Email,
        Password,
        Form,
    }
    let check = |code, field: Option<&str>, at: At| {
        let (mut test, call) = busy(EntryMode::SignUp);
        let field = field.map(str::to_owned);
        let sentence = "No.".to_owned();
        let refusal = Refusal {
            code,
            sentence,
            field,
            retry_after: None,
        };
        test.refuse(call, Failure::Refused(refusal));
        let entry = test.entry();
        let errors = [&entry.email_error, &entry.password_error, &entry.form_error];
        let at = match at {
            At::Email => 0,
            At::Password => 1,
            At::Form => 2,
        };
        for (place, error) in errors.into_iter().enumerate() {
            assert_eq!(
                error.as_deref(),
                (place == at).then_some("No."),
                "{code:?} at {place}"
            );
        }
        assert!(!entry.is_busy);
    };
    check(Some(ErrorCode::EmailTaken), None, At::Email);
    check(Some(ErrorCode::InvalidEmail), Some("email"), At::Email);
    check(
        Some(ErrorCode::InvalidPassword),
        Some("password"),
        At::Password,
    );
    check(Some(ErrorCode::InvalidField), Some("email"), At::Email);
    check(
        Some(ErrorCode::InvalidField),
        Some("password"),
        At::Password,
    );
    check(Some(ErrorCode::InvalidField), Some("colour"), At::Form);
    check(Some(ErrorCode::InvalidCredentials), None, At::Form);
    check(Some(ErrorCode::RateLimited), None, At::Form);
    check(Some(ErrorCode::Internal), None, At::Form);
    check(None, None, At::Form);
}

#[test]
fn a_wrong_password_may_be_typed_again() {
    let (mut test, call) = busy(EntryMode::LogIn);
    let effects = test.refuse(call, no(ErrorCode::InvalidCredentials, None));
    assert_eq!(effects, [Effect::Focus(Target::Password)]);
    test.act(Action::FieldEdited(Field::Password));
    assert_eq!(
        test.entry().form_error,
        None,
        "typing takes the reason away"
    );
}

#[test]
fn a_busy_server_says_when_to_come_back() {
    let (mut test, call) = busy(EntryMode::SignUp);
    test.refuse(call, no(ErrorCode::RateLimited, Some(12_000)));
    assert_eq!(
        test.entry().retry_at,
        Some(LocalTime::new(AHEAD_MS + 12_000))
    );
    test.act(Action::FieldEdited(Field::Email));
    assert_eq!(test.entry().retry_at, None);
}

#[test]
fn a_signup_without_an_answer_may_have_worked() {
    let sentence = |mode, failure| {
        let (mut test, call) = busy(mode);
        test.refuse(call, failure);
        test.entry().form_error.clone().unwrap()
    };
    assert!(sentence(EntryMode::SignUp, Failure::TimedOut).ends_with("logging in will work."));
    assert!(
        sentence(EntryMode::SignUp, no(ErrorCode::OutcomeUnknown, None))
            .ends_with("logging in will work.")
    );
    assert_eq!(
        sentence(EntryMode::LogIn, Failure::NoConnection),
        Failure::NoConnection.sentence()
    );
}

#[test]
fn the_other_side_of_the_card_is_clean() {
    let mut test = Test::new();
    test.act(Action::PasswordToggled);
    test.act(typed("", ""));
    test.act(Action::ModeSwitched);
    let clean = Entry {
        is_password_shown: true,
        ..Entry::new(EntryMode::LogIn, None)
    };
    assert_eq!(test.entry(), &clean);
}

#[test]
fn the_server_lets_in() {
    let (mut test, call) = busy(EntryMode::SignUp);
    let effects = test.answer(
        call,
        Answer::Authenticated(token("t"), Box::new(user(100, 5, None))),
    );
    assert_eq!(effects.first(), Some(&Effect::Remember(token("t"))));
    assert!(
        connects(&effects)
            && reloads(&effects)
            && effects.contains(&Effect::Focus(Target::Dashboard))
    );
    assert_eq!(
        (test.credits(), test.dashboard().email.as_deref()),
        (100, Some("ada@example.com"))
    );
    assert!(
        !test.dashboard().is_live(),
        "the socket is still on its way"
    );
}
