//! What a user can do about the login: another password, and an end of all logins.

use schema::account::PASSWORD_CHARACTERS_MIN;
use web_sys::SubmitEvent;
use yew::{Callback, Html, NodeRef, Properties, classes, function_component, html, use_node_ref};

use super::entry::typed;
use crate::{action::Action, model::Account};

/// What the panel shows.
#[derive(PartialEq, Properties)]
pub(super) struct Props {
    /// The panel's state.
    pub(super) account: Account,
    /// Whose it is, once that is known.
    pub(super) email: Option<String>,
    /// Takes what the user does.
    pub(super) dispatch: Callback<Action>,
}

/// The panel. What is typed stays in its fields until it is sent.
#[function_component]
pub(super) fn AccountPanel(props: &Props) -> Html {
    let (current, new) = (use_node_ref(), use_node_ref());
    let account = &props.account;
    let onsubmit = {
        let (current, new) = (current.clone(), new.clone());
        props.dispatch.reform(move |event: SubmitEvent| {
            event.prevent_default();
            Action::password_change(typed(&current), typed(&new))
        })
    };
    let busy = account.is_busy.to_string();
    html! {
        <section id="account" class="panel account" aria-labelledby="account-title" data-testid="account-panel">
            <form novalidate=true aria-busy={busy.clone()} {onsubmit}>
                <h2 id="account-title">{ "Change your password" }</h2>
                // Password managers want to know whose it is.
                <input class="unseen" type="text" name="username" autocomplete="username" readonly=true tabindex="-1"
                    aria-hidden="true" value={props.email.clone()} />
                <div class="two">
                    { field("current-password", "Current password", current, account.current_error.as_deref(), None) }
                    { field("new-password", "New password", new, account.new_error.as_deref(),
                        Some(format!("{PASSWORD_CHARACTERS_MIN} characters or more"))) }
                </div>
                <div class="form-error" role="alert">
                    if let Some(error) = &account.form_error {
                        <p data-testid="account-error">{ error.clone() }</p>
                    }
                </div>
                <button class="plain" type="submit" data-testid="change-password" aria-disabled={busy}>
                    { if account.is_busy { "Changing…" } else { "Change password" } }
                </button>
                <p class="note">{ "All other devices are logged out then." }</p>
            </form>
            <div class="everywhere">
                <button class="ghost" type="button" data-testid="logout-everywhere"
                    onclick={props.dispatch.reform(|_| Action::LogOutEverywherePressed)}>{ "Log out everywhere" }</button>
                <button class="ghost" type="button" data-testid="close-account"
                    onclick={props.dispatch.reform(|_| Action::AccountToggled)}>{ "Close" }</button>
            </div>
        </section>
    }
}

fn field(
    id: &'static str,
    label: &'static str,
    place: NodeRef,
    error: Option<&str>,
    hint: Option<String>,
) -> Html {
    let described_by = format!("{id}-note");
    let text = error.map(str::to_owned).or(hint).unwrap_or_default();
    html! {
        <div>
            <label for={id}>{ label }</label>
            <input {id} ref={place} type="password" autocomplete={id} autocapitalize="none" spellcheck="false"
                data-testid={id} aria-invalid={error.is_some().to_string()} aria-describedby={described_by.clone()} />
            <p id={described_by} class={classes!("note", error.map(|_| "error"))} data-testid={error.map(|_| format!("{id}-error"))}>{ text }</p>
        </div>
    }
}
