//! The browser as the page sees it: time, chance, storage, HTTP, sockets and the keyboard's focus.
//!
//! Nothing here decides anything.

pub mod fetch;
pub mod focus_trail;
pub mod locale;
pub mod socket;
pub mod storage;

use wasm_bindgen::JsCast as _;
use web_sys::{Document, HtmlElement, Window};

use crate::{
    action::Target,
    clock::{LocalTime, Moment},
    components::page::Page,
};

/// Mounts the page where the skeleton is. Should the program ever break, the page says so.
pub fn start() {
    yew::set_custom_panic_hook(Box::new(|info| {
        web_sys::console::error_1(&info.to_string().into());
        if let Some(banner) = document().and_then(|document| document.get_element_by_id("broken")) {
            // Nobody is left to tell if even that fails.
            let _ = banner.remove_attribute("hidden");
        }
    }));
    if let Some(root) = document().and_then(|document| document.get_element_by_id("app")) {
        yew::Renderer::<Page>::with_root(root).render();
    }
}

/// The window.
pub fn window() -> Option<Window> {
    web_sys::window()
}

/// The document.
pub fn document() -> Option<Document> {
    window()?.document()
}

/// Puts the page's own address in place of one that it was opened at by mistake. Tells whether it was.
pub fn leave_wrong_address() -> bool {
    let path = window().and_then(|window| window.location().pathname().ok());
    let is_wrong = path.is_some_and(|path| path != "/" && path != "/index.html");
    if is_wrong && let Some(history) = window().and_then(|window| window.history().ok()) {
        // Where it stays the old one, a reload says the same again.
        let _ = history.replace_state_with_url(&wasm_bindgen::JsValue::NULL, "", Some("/"));
    }
    is_wrong
}

/// The time by the page's own clock, which no one can set back.
pub fn now() -> LocalTime {
    let millis = window()
        .and_then(|window| window.performance())
        .map_or_else(js_sys::Date::now, |performance| {
            performance.time_origin() + performance.now()
        });
    LocalTime::new(whole(millis))
}

/// The time and fresh random bits.
pub fn moment() -> Moment {
    let mut bytes = [0; 16];
    if let Some(crypto) = window().and_then(|window| window.crypto().ok()) {
        // Without random bits the key of a command is not unique, and the server refuses the second.
        let _ = crypto.get_random_values_with_u8_array(&mut bytes);
    }
    Moment {
        now: now(),
        entropy: u128::from_le_bytes(bytes),
    }
}

/// Moves the keyboard's focus.
pub fn focus(target: Target) {
    focus_id(match target {
        Target::Email => "email",
        Target::Password => "password",
        Target::Dashboard => "dashboard",
        Target::Account => "account-button",
        Target::CurrentPassword => "current-password",
        Target::NewPassword => "new-password",
    });
}

/// Moves the keyboard's focus to the element with this id.
pub fn focus_id(id: &str) {
    let element = document().and_then(|document| document.get_element_by_id(id));
    if let Some(element) = element.and_then(|element| element.dyn_into::<HtmlElement>().ok()) {
        // An element that can't take it leaves it where it is.
        let _ = element.focus();
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the browser's times are far below 2^53 ms"
)]
fn whole(number: f64) -> i64 {
    number as i64
}
