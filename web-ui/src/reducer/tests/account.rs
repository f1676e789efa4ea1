//! Changing the password, and logging out everywhere.

use schema::{ErrorCode, account::ChangePassword};

use super::{Test, calls, no};
use crate::{
    action::{Action, Effect, Target},
    api::{Answer, Call, Failure, PasswordChange},
};

fn change(current: &str, new: &str) -> PasswordChange {
    PasswordChange(ChangePassword {
        current: current.to_owned(),
        new: new.to_owned(),
    })
}

#[test]
fn a_password_is_changed_once_and_told() {
    let mut test = Test::idle();
    let effects = test.act(Action::AccountToggled);
    assert_eq!(effects, [Effect::Focus(Target::CurrentPassword)]);
    let submitted = Action::PasswordChangeSubmitted(change("old password", "new password"));
    let effects = test.act(submitted.clone());
    let sent = Call::ChangePassword(change("old password", "new password"));
    assert_eq!(calls(&effects), [&sent]);
    assert!(calls(&test.act(submitted)).is_empty(), "a double click");
    test.answer(sent, Answer::PasswordChanged);
    assert_eq!(test.dashboard().account, None);
    assert_eq!(test.notices().len(), 1);
}

#[test]
fn what_needs_no_server_is_seen_at_once() {
    let check = |current: &str, new: &str, target: Target| {
        let mut test = Test::idle();
        test.act(Action::AccountToggled);
        let effects = test.act(Action::PasswordChangeSubmitted(change(current, new)));
        assert_eq!(effects, [Effect::Focus(target)], "{current:?} {new:?}");
    };
    check("", "new password", Target::CurrentPassword);
    check("", "", Target::CurrentPassword);
    check("old password", "", Target::NewPassword);
    check("old password", "short", Target::NewPassword);
    check("old password", &"x".repeat(1_025), Target::NewPassword);
}

#[test]
fn a_refusal_stands_at_its_field_and_ends_no_login() {
    let mut test = Test::idle();
    test.act(Action::AccountToggled);
    let passwords = change("wrong password", "new password");
    test.act(Action::PasswordChangeSubmitted(passwords.clone()));
    let wrong = no(ErrorCode::InvalidCredentials, None);
    let effects = test.refuse(Call::ChangePassword(passwords.clone()), wrong);
    assert_eq!(effects, [Effect::Focus(Target::CurrentPassword)]);
    let account = test.dashboard().account.clone().unwrap();
    assert!(account.current_error.is_some() && !account.is_busy);

    test.act(Action::PasswordChangeSubmitted(passwords.clone()));
    test.refuse(Call::ChangePassword(passwords), Failure::TimedOut);
    let account = test.dashboard().account.clone().unwrap();
    assert!(account.form_error.unwrap().contains("may be changed"));
}

#[test]
fn escape_closes_the_panel() {
    let mut test = Test::idle();
    test.act(Action::AccountToggled);
    let effects = test.act(Action::EscapePressed);
    assert_eq!(effects, [Effect::Focus(Target::Account)]);
    assert_eq!(test.dashboard().account, None);
}

#[test]
fn logging_out_everywhere_leaves_the_dashboard() {
    let mut test = Test::idle();
    let effects = test.act(Action::LogOutEverywherePressed);
    assert_eq!(calls(&effects), [&Call::LogOutEverywhere]);
    assert!(effects.contains(&Effect::Disconnect));
    test.refuse(Call::LogOutEverywhere, Failure::NoConnection);
    let told = test.notices().concat();
    assert!(told.contains("other devices"), "{told}");
}
