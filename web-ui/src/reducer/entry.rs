//! Signing up and logging in.

use schema::{
    ErrorCode,
    account::{EmailAndPassword, PASSWORD_BYTES_MAX, PASSWORD_CHARACTERS_MIN, User},
};

use crate::{
    action::{Action, Effect, Target},
    api::{Answer, Call, Credentials, Failure, Token},
    clock::Moment,
    model::{Entry, EntryMode, Field, LoginNumber},
};

/// Takes a step on the card. Returns the token and the user once the server has let them in.
pub(super) fn step(
    entry: &mut Entry,
    action: Action,
    login: LoginNumber,
    moment: Moment,
    effects: &mut Vec<Effect>,
) -> Option<(Token, Box<User>)> {
    match action {
        Action::ModeSwitched if !entry.is_busy => {
            let mode = match entry.mode {
                EntryMode::SignUp => EntryMode::LogIn,
                EntryMode::LogIn => EntryMode::SignUp,
            };
            *entry = Entry {
                is_password_shown: entry.is_password_shown,
                ..Entry::new(mode, None)
            };
        }
        Action::FieldEdited(field) => {
            match field {
                Field::Email => entry.email_error = None,
                Field::Password => entry.password_error = None,
            }
            entry.form_error = None;
            entry.retry_at = None;
        }
        Action::PasswordToggled => entry.is_password_shown = !entry.is_password_shown,
        Action::Submitted(credentials) if !entry.is_busy => {
            submit(entry, credentials, login, effects);
        }
        Action::Answered(_, _, Ok(Answer::Authenticated(token, user))) => {
            return Some((token, user));
        }
        Action::Answered(_, Call::SignUp(_) | Call::LogIn(_), Err(failure)) => {
            refused(entry, &failure, moment, effects);
        }
        // A second click, or something that belongs to the other screen.
        _ => {}
    }
    None
}

fn submit(
    entry: &mut Entry,
    credentials: Credentials,
    login: LoginNumber,
    effects: &mut Vec<Effect>,
) {
    *entry = Entry {
        is_password_shown: entry.is_password_shown,
        ..Entry::new(entry.mode, None)
    };
    check(entry, &credentials.0);
    if focus_first_error(entry, effects) {
        return;
    }
    entry.is_busy = true;
    let call = match entry.mode {
        EntryMode::SignUp => Call::SignUp(credentials),
        EntryMode::LogIn => Call::LogIn(credentials),
    };
    effects.push(Effect::Call(login, None, call));
}

/// Finds what needs no server to be seen. The server decides all else, and may be stricter.
fn check(entry: &mut Entry, typed: &EmailAndPassword) {
    if typed.email.trim().is_empty() {
        entry.email_error = Some("Enter your email address.".to_owned());
    }
    entry.password_error = match (entry.mode, typed.password.chars().count()) {
        (_, 0) => Some("Enter a password.".to_owned()),
        (EntryMode::SignUp, ..PASSWORD_CHARACTERS_MIN) => Some(format!(
            "Too short: use {PASSWORD_CHARACTERS_MIN} characters or more."
        )),
        (EntryMode::SignUp, _) if typed.password.len() > PASSWORD_BYTES_MAX => {
            Some("That is too long.".to_owned())
        }
        _ => None,
    };
}

fn refused(entry: &mut Entry, failure: &Failure, moment: Moment, effects: &mut Vec<Effect>) {
    entry.is_busy = false;
    entry.retry_at = failure.retry_after().map(|wait| moment.now.after(wait));
    let mut sentence = failure.sentence();
    // A signup without an answer may have made the account: logging in will tell.
    if entry.mode == EntryMode::SignUp && failure.is_unknown() {
        sentence.push_str(" If the account was made all the same, logging in will work.");
    }
    let field = match failure {
        Failure::Refused(refusal) => refusal.field.as_deref(),
        Failure::NoConnection | Failure::TimedOut => None,
    };
    match (failure.code(), field) {
        (Some(ErrorCode::EmailTaken | ErrorCode::InvalidEmail), _) | (_, Some("email")) => {
            entry.email_error = Some(sentence);
        }
        (Some(ErrorCode::InvalidPassword), _) | (_, Some("password")) => {
            entry.password_error = Some(sentence);
        }
        _ => entry.form_error = Some(sentence),
    }
    if failure.code() == Some(ErrorCode::InvalidCredentials) {
        effects.push(Effect::Focus(Target::Password));
    } else {
        focus_first_error(entry, effects);
    }
}

/// Moves the focus to the first field that is wrong, and tells whether there is one.
fn focus_first_error(entry: &Entry, effects: &mut Vec<Effect>) -> bool {
    let target = match (&entry.email_error, &entry.password_error) {
        (Some(_), _) => Target::Email,
        (None, Some(_)) => Target::Password,
        (None, None) => return false,
    };
    effects.push(Effect::Focus(target));
    true
}
