//! Small drawings. All are for the eye only.

use yew::{Html, html};

/// The clock of the mark.
pub(super) fn mark() -> Html {
    html! {
        <svg viewBox="0 0 24 24" aria-hidden="true">
            <circle cx="12" cy="12" r="9.5" fill="none" stroke="currentColor" stroke-width="2.4" opacity=".22" />
            <path class="accent" d="M12 2.5a9.5 9.5 0 1 1-8.6 5.4" fill="none" stroke-width="2.6" stroke-linecap="round" />
            <path d="M12 7.5V12l3 2" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" />
        </svg>
    }
}

/// A triangle with an exclamation mark.
pub(super) fn warning() -> Html {
    drawn("M12 4 2.8 19.5h18.4L12 4Zm0 6v4.5m0 2.6v.1")
}

/// A tick in a circle.
pub(super) fn done() -> Html {
    drawn("M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0Zm-13 .3 2.8 2.8L16 9.6")
}

/// An i in a circle.
pub(super) fn info() -> Html {
    drawn("M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0Zm-9-1v5.5m0-8.8v.1")
}

/// A cross.
pub(super) fn cross() -> Html {
    drawn("M6.5 6.5l11 11m0-11-11 11")
}

fn drawn(path: &'static str) -> Html {
    html! {
        <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
            <path d={path} fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" />
        </svg>
    }
}
