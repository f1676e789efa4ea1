//! The notices, over everything else.

use yew::{Callback, Html, Properties, classes, function_component, html};

use super::icon;
use crate::{
    action::Action,
    clock::LocalTime,
    notice::{Notice, RetriedBy, Retry, Tone},
    words,
};

/// What there is to say.
#[derive(PartialEq, Properties)]
pub(super) struct Props {
    /// The notices, oldest first.
    pub(super) notices: Vec<Notice>,
    /// The time.
    pub(super) now: LocalTime,
    /// Takes what the user does.
    pub(super) dispatch: Callback<Action>,
}

/// The notices. The region is always there, so that a screen reader hears what comes into it.
#[function_component]
pub(super) fn NoticeList(props: &Props) -> Html {
    html! {
        <section class="notices" aria-label="Notices" aria-live="polite" tabindex="-1">
            { for props.notices.iter().map(|notice| one(notice, props)) }
        </section>
    }
}

fn one(notice: &Notice, props: &Props) -> Html {
    let (look, drawing) = match notice.tone {
        Tone::Good => ("good", icon::done()),
        Tone::Plain => ("news", icon::info()),
        Tone::Bad => ("bad", icon::warning()),
    };
    let number = notice.number;
    html! {
        <div key={number} class={classes!("notice", look)} data-testid="notice">
            { drawing }
            <p>{ notice.text.clone() }{ retry(notice.retry, props.now) }</p>
            <button class="ghost" type="button" aria-label="Dismiss"
                onclick={props.dispatch.reform(move |_| Action::NoticeDismissed(number))}>{ icon::cross() }</button>
        </div>
    }
}

/// When it is tried again. It counts down for the eye only.
fn retry(retry: Option<Retry>, now: LocalTime) -> Html {
    let Some(Retry { at, by }) = retry else {
        return Html::default();
    };
    let text = match (by, words::seconds_up(at.since(now))) {
        (RetriedBy::User, 0) => " You can try again now.".to_owned(),
        (RetriedBy::User, seconds) => format!(" Try again in {} s.", words::number(seconds)),
        (RetriedBy::Page, 0) => " Trying again…".to_owned(),
        (RetriedBy::Page, seconds) => format!(" Trying again in {} s.", words::number(seconds)),
    };
    html! { <span class="num" aria-hidden="true">{ text }</span> }
}
