//! Changing the password.

use schema::{
    ErrorCode,
    account::{PASSWORD_BYTES_MAX, PASSWORD_CHARACTERS_MIN},
};

use super::Context;
use crate::{
    action::{Effect, Target},
    api::{Call, Failure, PasswordChange},
    model::Account,
};

/// Opens the panel, or closes it.
pub(super) fn toggle(context: &mut Context) {
    let account = &mut context.dashboard.account;
    *account = match account {
        Some(_) => None,
        None => Some(Account::default()),
    };
    context.effects.push(Effect::Focus(match account {
        Some(_) => Target::CurrentPassword,
        None => Target::Account,
    }));
}

/// Closes the panel, if it is open.
pub(super) fn close(context: &mut Context) -> bool {
    let is_open = context.dashboard.account.is_some();
    if is_open {
        toggle(context);
    }
    is_open
}

/// Sends the passwords, unless it needs no server to see that they won't do.
pub(super) fn submit(context: &mut Context, change: PasswordChange) {
    let Some(account) = &mut context.dashboard.account else {
        return;
    };
    if account.is_busy {
        return;
    }
    *account = Account::default();
    if change.0.current.is_empty() {
        account.current_error = Some("Enter your current password.".to_owned());
    }
    account.new_error = match change.0.new.chars().count() {
        0 => Some("Enter a new password.".to_owned()),
        1..PASSWORD_CHARACTERS_MIN => Some(format!(
            "Too short: use {PASSWORD_CHARACTERS_MIN} characters or more."
        )),
        _ if change.0.new.len() > PASSWORD_BYTES_MAX => Some("That is too long.".to_owned()),
        _ => None,
    };
    if let Some(target) = first_error(account) {
        context.effects.push(Effect::Focus(target));
        return;
    }
    account.is_busy = true;
    context.call(Call::ChangePassword(change));
}

/// The password is another one now.
pub(super) fn changed(context: &mut Context) {
    close(context);
    let text = "Your password is changed. All other devices are logged out.".to_owned();
    context.notices.confirm(text, context.moment.now);
}

/// The server said no, or nothing.
pub(super) fn failed(context: &mut Context, failure: &Failure) {
    let Some(account) = &mut context.dashboard.account else {
        return;
    };
    account.is_busy = false;
    let mut sentence = failure.sentence();
    if failure.is_unknown() {
        sentence.push_str(" The password may be changed all the same.");
    }
    match failure.code() {
        Some(ErrorCode::InvalidCredentials) => {
            account.current_error = Some("This is not your current password.".to_owned());
        }
        Some(ErrorCode::InvalidPassword) => account.new_error = Some(sentence),
        _ => account.form_error = Some(sentence),
    }
    if let Some(target) = first_error(account) {
        context.effects.push(Effect::Focus(target));
    }
}

/// The first field that is wrong.
const fn first_error(account: &Account) -> Option<Target> {
    match (&account.current_error, &account.new_error) {
        (Some(_), _) => Some(Target::CurrentPassword),
        (None, Some(_)) => Some(Target::NewPassword),
        (None, None) => None,
    }
}
