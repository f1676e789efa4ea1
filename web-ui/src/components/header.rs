//! The top of the page: the mark, the connection and the way out.

use yew::{Callback, Html, Properties, classes, function_component, html};

use super::icon;
use crate::{
    action::Action,
    clock::LocalTime,
    model::{Link, LinkPhase},
    words,
};

/// What the header shows.
#[derive(PartialEq, Properties)]
pub(super) struct Props {
    /// The connection and the email, where somebody is logged in.
    pub(super) link: Option<(Link, Option<String>)>,
    /// Whether the panel about the login is open.
    pub(super) is_account_open: bool,
    /// The time.
    pub(super) now: LocalTime,
    /// Whether the browser believes that there is a network.
    pub(super) is_online: bool,
    /// Takes what the user does.
    pub(super) dispatch: Callback<Action>,
}

/// The header.
#[function_component]
pub(super) fn Header(props: &Props) -> Html {
    html! {
        <header>
            <span class="mark">{ icon::mark() }<b>{ "Minute-Credit" }</b></span>
            if let Some((link, email)) = &props.link {
                { connection(link, props) }
                <bdi class="email" title={email.clone()} data-testid="email-shown">{ email.clone() }</bdi>
                <button id="account-button" class="ghost" type="button" data-testid="account" aria-controls="account"
                    aria-expanded={props.is_account_open.to_string()}
                    onclick={props.dispatch.reform(|_| Action::AccountToggled)}>{ "Account" }</button>
                <button class="ghost" type="button" data-testid="logout"
                    onclick={props.dispatch.reform(|_| Action::LogOutPressed)}>{ "Log out" }</button>
            }
        </header>
    }
}

/// The connection's state for the eye, with a way to hurry, and in calmer words for the ear.
fn connection(link: &Link, props: &Props) -> Html {
    let (look, words, said) = match link.phase {
        LinkPhase::Live { .. } => ("live", "Live".to_owned(), "Connected."),
        LinkPhase::Connecting { .. } if link.failures == 0 => ("busy", "Connecting".to_owned(), ""),
        LinkPhase::Connecting { .. } => (
            "busy",
            "Reconnecting".to_owned(),
            "Connection lost, reconnecting.",
        ),
        LinkPhase::Waiting { .. } if !props.is_online => {
            ("lost", "Offline".to_owned(), "You are offline.")
        }
        LinkPhase::Waiting { until } => {
            let seconds = words::number(words::seconds_up(until.since(props.now)).max(1));
            let said = if link.refusal.is_some() {
                "No live connection: the server wants none now."
            } else {
                "Connection lost, reconnecting."
            };
            ("lost", format!("Reconnecting in {seconds} s"), said)
        }
    };
    let is_waiting = matches!(link.phase, LinkPhase::Waiting { .. });
    html! {
        <span class={classes!("pill", look)}>
            <i aria-hidden="true"></i>
            <span class="num" data-testid="connection" aria-hidden="true">{ words }</span>
            <span class="unseen" role="status">{ said }</span>
            if is_waiting {
                <button class="link" type="button" data-testid="reconnect"
                    onclick={props.dispatch.reform(|_| Action::ReconnectPressed)}>
                    { "now" }<span class="unseen">{ ": reconnect" }</span>
                </button>
            }
        </span>
    }
}
