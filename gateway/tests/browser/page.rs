//! The page in a real Chromium, and what a person does with it.

use browser::{Browser, Client, Element, Locator, WindowHandle, devtools};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::wait::{until, until_some};

/// Notes each balance that the page shows, from now on, with the browser's time.
const OBSERVE: &str = r"
    window.shown = [];
    const look = () => {
        const balance = document.querySelector('[data-testid=balance]');
        if (!balance) return;
        const credits = Number(balance.textContent.trim());
        if (window.shown.at(-1)?.credits !== credits) window.shown.push({ credits, at: Date.now() });
    };
    look();
    new MutationObserver(look).observe(document.body, {
        subtree: true, childList: true, attributes: true, characterData: true,
    });
";

/// A balance that the page showed.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Shown {
    pub(crate) credits: i64,
    /// When it first did, in ms since 1970.
    pub(crate) at: i64,
}

/// The open page.
#[derive(Clone)]
pub(crate) struct Page {
    client: Client,
}

fn css(test_id: &str) -> String {
    format!("[data-testid={test_id}]")
}

impl Page {
    /// The page that `browser` is to show.
    pub(crate) fn of(browser: &Browser) -> Self {
        Self {
            client: browser.client().clone(),
        }
    }

    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    pub(crate) async fn refresh(&self) {
        self.client.refresh().await.unwrap();
    }

    /// Opens another tab with `url` and goes there; returns what leads back to this one.
    pub(crate) async fn open_tab(&self, url: &str) -> Tab {
        let here = self.client.window().await.unwrap();
        let tab = self.client.new_window(true).await.unwrap();
        self.client.switch_to_window(tab.handle).await.unwrap();
        self.open(url).await;
        Tab(here)
    }

    /// Goes to `tab`; returns what leads back.
    pub(crate) async fn switch_to(&self, tab: Tab) -> Tab {
        let here = self.client.window().await.unwrap();
        self.client.switch_to_window(tab.0).await.unwrap();
        Tab(here)
    }

    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.unwrap_or_default()
    }

    // --- what a person does ---

    pub(crate) async fn click(&self, test_id: &str) {
        self.find(test_id).await.click().await.unwrap();
    }

    /// Types `text` into the field, in place of what was there.
    pub(crate) async fn fill(&self, test_id: &str, text: &str) {
        let field = self.find(test_id).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Fills in the form and sends it.
    pub(crate) async fn submit(&self, email: &str, password: &str) {
        self.fill("email", email).await;
        self.fill("password", password).await;
        self.click("submit").await;
    }

    // --- what a person sees ---

    /// The element, once it is there.
    pub(crate) async fn find(&self, test_id: &str) -> Element {
        until_some(&format!("there is a {test_id}"), async || {
            self.client.find(Locator::Css(&css(test_id))).await.ok()
        })
        .await
    }

    pub(crate) async fn is_there(&self, test_id: &str) -> bool {
        !self
            .client
            .find_all(Locator::Css(&css(test_id)))
            .await
            .unwrap()
            .is_empty()
    }

    pub(crate) async fn count(&self, test_id: &str) -> usize {
        self.client
            .find_all(Locator::Css(&css(test_id)))
            .await
            .unwrap()
            .len()
    }

    /// The text of the element, if it is there and says anything. Read in one go: the page may take
    /// it away at any time.
    pub(crate) async fn text(&self, test_id: &str) -> Option<String> {
        let script = "return document.querySelector(arguments[0])?.textContent?.trim() ?? null";
        let text = self.run(script, vec![json!(css(test_id))]).await;
        text.as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }

    pub(crate) async fn attribute(&self, test_id: &str, name: &str) -> Option<String> {
        let script =
            "return document.querySelector(arguments[0])?.getAttribute(arguments[1]) ?? null";
        let value = self
            .run(script, vec![json!(css(test_id)), json!(name)])
            .await;
        value.as_str().map(str::to_owned)
    }

    /// What the form is for: `sign-up` or `log-in`.
    pub(crate) async fn form_mode(&self) -> String {
        let script = "return document.querySelector('form').dataset.mode";
        self.run(script, Vec::new())
            .await
            .as_str()
            .expect("a form")
            .to_owned()
    }

    /// The balance, once there is one.
    pub(crate) async fn balance(&self) -> i64 {
        until_some("the page shows a balance", async || {
            self.text("balance").await?.parse().ok()
        })
        .await
    }

    pub(crate) async fn until_text(&self, test_id: &str, expected: &str) {
        until(&format!("{test_id} says {expected:?}"), async || {
            self.text(test_id).await.as_deref() == Some(expected)
        })
        .await;
    }

    /// The bearer token that the page keeps.
    pub(crate) async fn token(&self) -> String {
        let token = self
            .run(
                "return localStorage.getItem('minute-credit.token')",
                Vec::new(),
            )
            .await;
        token.as_str().expect("a token").to_owned()
    }

    /// Begins to note the balances that the page shows.
    pub(crate) async fn observe(&self) {
        self.run(OBSERVE, Vec::new()).await;
    }

    /// The balances noted, each as often as it came.
    pub(crate) async fn shown(&self) -> Vec<Shown> {
        serde_json::from_value(self.run("return window.shown", Vec::new()).await).unwrap()
    }

    // --- what only a test does ---

    /// Runs `script` in the page, and returns what it returns.
    pub(crate) async fn run(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client.execute(script, arguments).await.unwrap()
    }

    /// Runs `script` in the page, and returns what it hands to its last argument.
    pub(crate) async fn run_async(&self, script: &str) -> Value {
        self.client.execute_async(script, Vec::new()).await.unwrap()
    }

    /// Tells the browser something by its own protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) {
        devtools(&self.client, command, parameters).await.unwrap();
    }

    /// Presses a key, as `WebDriver` writes it, where the keyboard's focus is.
    pub(crate) async fn press(&self, key: &str) {
        let focused = self.client.active_element().await.unwrap();
        focused.send_keys(key).await.unwrap();
    }
}

/// Another tab.
pub(crate) struct Tab(WindowHandle);
