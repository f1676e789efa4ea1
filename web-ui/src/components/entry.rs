//! The card to sign up or log in.

use schema::account::PASSWORD_CHARACTERS_MIN;
use web_sys::{HtmlInputElement, SubmitEvent};
use yew::{
    AttrValue, Callback, Html, NodeRef, Properties, classes, function_component, html, use_node_ref,
};

use crate::{
    action::Action,
    model::{Entry, EntryMode, Field},
    words,
};

/// What the card shows.
#[derive(PartialEq, Properties)]
pub(super) struct Props {
    /// The card's state.
    pub(super) entry: Entry,
    /// In how many seconds to try again, if the server said so.
    pub(super) retry_in_s: Option<i64>,
    /// Takes what the user does.
    pub(super) dispatch: Callback<Action>,
}

struct Words {
    title: &'static str,
    button: &'static str,
    busy: &'static str,
    question: &'static str,
    switch: &'static str,
    mode: &'static str,
    autocomplete: &'static str,
}

const SIGN_UP: Words = Words {
    title: "Create your account",
    button: "Sign up",
    busy: "Signing up…",
    question: "Have an account already?",
    switch: "Log in",
    mode: "sign-up",
    autocomplete: "new-password",
};

const LOG_IN: Words = Words {
    title: "Welcome back",
    button: "Log in",
    busy: "Logging in…",
    question: "New here?",
    switch: "Create an account",
    mode: "log-in",
    autocomplete: "current-password",
};

/// The card. What is typed stays in its fields until it is sent.
#[function_component]
pub(super) fn EntryCard(props: &Props) -> Html {
    let (email, password) = (use_node_ref(), use_node_ref());
    let entry = &props.entry;
    let words = match entry.mode {
        EntryMode::SignUp => &SIGN_UP,
        EntryMode::LogIn => &LOG_IN,
    };
    let onsubmit = {
        let (email, password) = (email.clone(), password.clone());
        props.dispatch.reform(move |event: SubmitEvent| {
            event.prevent_default();
            Action::submitted(typed(&email), typed(&password))
        })
    };
    html! {
        <main class="entry">
            <form class="panel card" data-mode={words.mode} novalidate=true aria-busy={entry.is_busy.to_string()} {onsubmit}>
                <h1>{ words.title }</h1>
                { lead(entry) }
                <label for="email">{ "Email" }</label>
                <input id="email" ref={email} type="email" name="email" autocomplete="username" inputmode="email"
                    autocapitalize="none" spellcheck="false" data-testid="email"
                    aria-invalid={entry.email_error.is_some().to_string()} aria-describedby="email-note"
                    oninput={props.dispatch.reform(|_| Action::FieldEdited(Field::Email))} />
                { note("email-note", "email-error", entry.email_error.as_deref(), None) }
                <label for="password">{ "Password" }</label>
                { password_field(props, words, password) }
                { note("password-note", "password-error", entry.password_error.as_deref(), hint(entry.mode)) }
                <div class="form-error" role="alert">{ form_error(props) }</div>
                <button class="go wide" type="submit" data-testid="submit" aria-disabled={entry.is_busy.to_string()}>
                    { if entry.is_busy { words.busy } else { words.button } }
                </button>
                <p class="switch">
                    { words.question }{ " " }
                    <button class="link" type="button" data-testid="switch-mode"
                        onclick={props.dispatch.reform(|_| Action::ModeSwitched)}>{ words.switch }</button>
                </p>
            </form>
        </main>
    }
}

fn lead(entry: &Entry) -> Html {
    match (&entry.reason, entry.mode) {
        (Some(reason), _) => {
            html! { <p class="lead reason" role="status" data-testid="reason">{ reason.clone() }</p> }
        }
        (None, EntryMode::SignUp) => html! {
            <p class="lead">
                { "Minute-Credit meters time in credits: start a session, watch your balance fall live, and stop \
                   whenever you like. You pay only for the time you use." }
            </p>
        },
        (None, EntryMode::LogIn) => {
            html! { <p class="lead">{ "Log in to see your balance and your sessions." }</p> }
        }
    }
}

fn password_field(props: &Props, words: &Words, password: NodeRef) -> Html {
    let entry = &props.entry;
    let (kind, show) = if entry.is_password_shown {
        ("text", "Hide")
    } else {
        ("password", "Show")
    };
    html! {
        <div class="with-button">
            <input id="password" ref={password} type={kind} name="password" autocomplete={words.autocomplete}
                autocapitalize="none" spellcheck="false" data-testid="password"
                aria-invalid={entry.password_error.is_some().to_string()} aria-describedby="password-note"
                oninput={props.dispatch.reform(|_| Action::FieldEdited(Field::Password))} />
            <button class="ghost" type="button" data-testid="show-password" aria-pressed={entry.is_password_shown.to_string()}
                aria-label="Show password" onclick={props.dispatch.reform(|_| Action::PasswordToggled)}>{ show }</button>
        </div>
    }
}

/// The line under a field: what is wrong with it, or else a hint. It keeps its place when empty.
fn note(id: &'static str, testid: &'static str, error: Option<&str>, hint: Option<String>) -> Html {
    let text = error.map(str::to_owned).or(hint).unwrap_or_default();
    let testid = error.map(|_| AttrValue::Static(testid));
    html! { <p {id} class={classes!("note", error.map(|_| "error"))} data-testid={testid}>{ text }</p> }
}

fn hint(mode: EntryMode) -> Option<String> {
    (mode == EntryMode::SignUp).then(|| format!("{PASSWORD_CHARACTERS_MIN} characters or more"))
}

fn form_error(props: &Props) -> Html {
    let Some(error) = &props.entry.form_error else {
        return Html::default();
    };
    let retry = match props.retry_in_s {
        Some(0) => " You can try again now.".to_owned(),
        Some(seconds) => format!(" Try again in {} s.", words::number(seconds)),
        None => String::new(),
    };
    html! { <p data-testid="form-error">{ error.clone() }<span class="num">{ retry }</span></p> }
}

/// What stands in the field.
pub(super) fn typed(field: &NodeRef) -> String {
    field
        .cast::<HtmlInputElement>()
        .map(|field| field.value())
        .unwrap_or_default()
}
