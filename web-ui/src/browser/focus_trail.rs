//! The keyboard's focus, picked up where a button under it went away.
//!
//! A browser lets the focus fall to the document's beginning when the element that has it is removed: after
//! the last "Load more", or when a notice is dismissed. Then it goes to the nearest thing around the place
//! where it was that is still there and can take it.

use wasm_bindgen::JsCast as _;
use web_sys::{Element, HtmlElement};

/// The element that has the focus, and those around it, from the inside out.
#[derive(Default)]
pub struct FocusTrail(Vec<Element>);

impl FocusTrail {
    /// The trail as it is now; empty if nothing in the page has the focus.
    pub fn here() -> Self {
        let focused = super::document().and_then(|document| document.active_element());
        let mut trail = Vec::new();
        let mut next = focused.filter(|element| element.tag_name() != "BODY");
        while let Some(element) = next {
            next = element.parent_element();
            trail.push(element);
        }
        Self(trail)
    }

    /// Gives the focus to the nearest place that can take it, if what had it is gone.
    pub fn pick_up(&mut self) {
        let trail = std::mem::take(&mut self.0);
        if trail.first().is_none_or(|element| element.is_connected()) {
            return;
        }
        let place = trail
            .into_iter()
            .find(|element| element.is_connected() && element.has_attribute("tabindex"));
        match place.and_then(|place| place.dyn_into::<HtmlElement>().ok()) {
            // An element that can't take it leaves it where it is.
            Some(place) => drop(place.focus()),
            None => super::focus_id("dashboard"),
        }
    }
}
