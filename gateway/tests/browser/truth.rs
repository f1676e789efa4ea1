//! The page tells the truth: when an operator acts, when the link is dead, when a user changes, and to a reader
//! who uses a keyboard, another language or paper.

use schema::{ledger::LedgerPage, session::SessionPage};
use serde_json::{Value, json};

use crate::{
    EMAIL, PASSWORD,
    page::Page,
    proxy::{Proxy, Way},
    sign_up,
    wait::until,
    with_browser,
};

/// Waits until the element's text has `part` in it.
async fn until_says(page: &Page, test_id: &str, part: &str) {
    until(&format!("{test_id} speaks of {part:?}"), async || {
        page.text(test_id)
            .await
            .is_some_and(|text| text.contains(part))
    })
    .await;
}

/// The texts of the cells in the row with this test id, the first if there are more.
async fn cells(page: &Page, test_id: &str) -> Vec<String> {
    let script = "return [...(document.querySelector(`[data-testid=${arguments[0]}]`)?.cells ?? [])].map((cell) => cell.innerText)";
    serde_json::from_value(page.run(script, vec![json!(test_id)]).await).unwrap()
}

#[tokio::test]
async fn what_an_operator_does_is_on_the_screen_at_once() {
    let settings = [("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "3600000")];
    with_browser("operator", &settings, async |page, server| {
        sign_up(&page).await;
        let token = page.token().await;
        page.click("tab-wallet").await;

        // Nothing runs.
        server.change_credits(EMAIL, -30).await;
        page.until_text("balance", "70").await;
        until_says(&page, "notice", "30 credits taken out").await;
        until("the movement is listed", async || {
            page.count("ledger-row").await == 2
        })
        .await;
        server.change_credits(EMAIL, 230).await;
        page.until_text("balance", "300").await;
        until("the movement is listed", async || {
            page.count("ledger-row").await == 3
        })
        .await;

        // A session runs, which has cost nothing yet.
        page.click("start").await;
        page.find("ledger-live").await;
        server.change_credits(EMAIL, -200).await;
        page.until_text("balance", "100").await;
        until("the movement is listed", async || {
            page.count("ledger-row").await == 4
        })
        .await;
        assert_eq!(cells(&page, "ledger-live").await[2..], ["0", "100"]);
        assert_eq!(cells(&page, "ledger-row").await[2..], ["−200", "100"]);

        let ledger: LedgerPage = server.get("/api/ledger", &token).await;
        assert_eq!(ledger.entries[0].balance_after.get(), 100);
    })
    .await;
}

#[tokio::test]
async fn a_dead_link_is_not_called_live_and_a_start_behind_it_is_not_lost() {
    with_browser("dead_link", &[], async |page, server| {
        let proxy = Proxy::before(server.port).await;
        page.open(&proxy.url()).await;
        sign_up(&page).await;
        let token = page.token().await;

        proxy.set(Way::BlackHole);
        until("the page has noticed it", async || {
            page.text("connection").await.as_deref() != Some("Live")
        })
        .await;
        until_says(&page, "as-of", "No connection to the server").await;
        page.click("start").await;
        until_says(
            &page,
            "notice",
            "It is not known yet whether the session started.",
        )
        .await;
        assert_eq!(page.count("notice").await, 1);

        proxy.set(Way::Open);
        page.until_text("connection", "Live").await;
        page.find("stop").await;
        until("nothing is in doubt", async || {
            page.attribute("stop", "aria-busy").await.as_deref() == Some("false")
        })
        .await;
        let history: SessionPage = server.get("/api/sessions", &token).await;
        assert_eq!(
            history.sessions.len(),
            1,
            "it was sent again by the same name"
        );
    })
    .await;
}

#[tokio::test]
async fn nothing_is_counted_down_without_the_server() {
    let settings = [("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "1000")];
    with_browser("stopped_clock", &settings, async |page, server| {
        let proxy = Proxy::before(server.port).await;
        page.open(&proxy.url()).await;
        sign_up(&page).await;
        page.click("start").await;
        page.find("stop").await;
        proxy.set(Way::Closed);
        page.find("as-of").await;
        until("the title says it too", async || {
            let title = page.run("return document.title", Vec::new()).await;
            title.as_str().is_some_and(|title| title.ends_with("no connection"))
        })
        .await;
        let counted = async || {
            let script = "return [document.title, ...['balance', 'time-left', 'as-of', 'sessions-row'].map((id) => document.querySelector(`[data-testid=${id}]`).innerText), document.querySelector('.facts').innerText]";
            page.run(script, Vec::new()).await
        };
        let before = counted().await;
        // The wait until the next attempt is counted down meanwhile.
        for _ in 0..3 {
            let shown = page.text("connection").await;
            until("a second has passed", async || page.text("connection").await != shown).await;
        }
        assert_eq!(counted().await, before);
        proxy.set(Way::Open);
        page.until_text("connection", "Live").await;
        until("time goes on", async || counted_differs(&page, &before).await).await;
    })
    .await;
}

async fn counted_differs(page: &Page, before: &Value) -> bool {
    page.text("time-left").await.as_deref() != before[2].as_str()
}

#[tokio::test]
async fn the_keyboards_focus_stays_where_it_was() {
    with_browser("focus", &[], async |page, server| {
        sign_up(&page).await;
        for _ in 0..20 {
            server.change_credits(EMAIL, 1).await;
        }
        page.refresh().await;
        page.click("tab-wallet").await;
        let focused = async || {
            let script = "const place = document.activeElement; return place.id || place.className || place.tagName";
            page.run(script, Vec::new()).await
        };
        page.find("load-more").await;
        page.run("document.querySelector('[data-testid=load-more]').focus()", Vec::new()).await;
        page.press("\u{e007}").await;
        until("there is no more", async || {
            page.count("ledger-row").await == 21 && !page.is_there("load-more").await
        })
        .await;
        assert_eq!(focused().await, "list");

        server.change_credits(EMAIL, -1).await;
        page.find("notice").await;
        page.run("document.querySelector('.notice button').focus()", Vec::new()).await;
        page.press("\u{e007}").await;
        until("it is dismissed", async || !page.is_there("notice").await).await;
        assert_eq!(focused().await, "notices");
    })
    .await;
}

#[tokio::test]
async fn another_user_is_told_apart() {
    with_browser("users", &[], async |page, server| {
        sign_up(&page).await;
        page.click("start").await;
        page.find("stop").await;
        let announced = "return document.querySelector('#app > p.unseen').textContent";
        until("the start is announced", async || {
            page.run(announced, Vec::new())
                .await
                .as_str()
                .is_some_and(|text| text.contains("Session started"))
        })
        .await;
        page.click("logout").await;
        until_says(&page, "reason", "Your session runs on").await;
        assert_eq!(page.run(announced, Vec::new()).await, "");
        page.submit(EMAIL, PASSWORD).await;
        page.until_text("email-shown", EMAIL).await;

        let first = page.open_tab(&server.url()).await;
        page.click("logout").await;
        page.find("email").await;
        if page.form_mode().await == "log-in" {
            page.click("switch-mode").await;
        }
        page.submit("bob@example.com", PASSWORD).await;
        page.until_text("email-shown", "bob@example.com").await;
        page.switch_to(first).await;
        page.until_text("email-shown", "bob@example.com").await;
        until_says(&page, "notice", "You logged in in another tab").await;
    })
    .await;
}

#[tokio::test]
async fn numbers_are_written_as_the_reader_writes_them() {
    with_browser("locale", &[], async |page, server| {
        sign_up(&page).await;
        server.change_credits(EMAIL, 1_234_467).await;
        page.until_text("balance", "1,234,567").await;
        for (locale, written) in [
            ("de-DE", "1.234.567"),
            ("hi-IN", "12,34,567"),
            ("fr-CH", "1\u{202f}234\u{202f}567"),
        ] {
            page.devtools("Emulation.setLocaleOverride", json!({ "locale": locale }))
                .await;
            page.refresh().await;
            page.until_text("balance", written).await;
        }
    })
    .await;
}

#[tokio::test]
async fn from_right_to_left_everything_is_mirrored() {
    /// Where things begin, seen from where reading begins.
    const PLACES: &str = r"
        document.documentElement.dir = arguments[0];
        const width = document.documentElement.clientWidth;
        const things = document.querySelectorAll('header > *, .panel, h2, .ring, .go, dt, dd, .cap > *, .tabs button, th, td, th:not(.x), .email');
        return [...things].map((thing) => {
            const range = document.createRange();
            range.selectNodeContents(thing);
            return [thing, range].map((part) => {
                const box = part.getBoundingClientRect();
                return Math.round(arguments[0] === 'rtl' ? width - box.right : box.left);
            });
        });
    ";
    with_browser("mirrored", &[], async |page, _server| {
        sign_up(&page).await;
        page.click("tab-wallet").await;
        page.find("ledger-row").await;
        let places = async |direction: &str| -> Vec<[i64; 2]> {
            serde_json::from_value(page.run(PLACES, vec![json!(direction)]).await).unwrap()
        };
        let (ltr, rtl) = (places("ltr").await, places("rtl").await);
        assert!(ltr.len() > 15);
        for (left, right) in ltr.iter().zip(&rtl) {
            let is_mirrored = left
                .iter()
                .zip(right)
                .all(|(left, right)| (left - right).abs() <= 2);
            assert!(is_mirrored, "{ltr:?}\n{rtl:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn paper_is_light_and_forced_colours_leave_no_button_without_an_edge() {
    with_browser("media", &[], async |page, _server| {
        sign_up(&page).await;
        let media = async |media: &str, features: Value| {
            let emulated = json!({ "media": media, "features": features });
            page.devtools("Emulation.setEmulatedMedia", emulated).await;
        };
        let style = async |selector: &str, property: &str| {
            let script = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])";
            page.run(script, vec![json!(selector), json!(property)]).await
        };
        let dark = json!([{ "name": "prefers-color-scheme", "value": "dark" }]);
        media("screen", dark.clone()).await;
        assert_eq!(style("body", "color").await, "rgb(232, 239, 235)");
        media("print", dark).await;
        assert_eq!(style("body", "color").await, "rgb(21, 32, 27)");

        media("screen", json!([{ "name": "forced-colors", "value": "active" }])).await;
        assert_eq!(style(".go", "border-top-style").await, "solid");
        assert_ne!(style(".go", "border-top-color").await, style(".go", "background-color").await);
        let [open, closed] = ["[aria-selected=true]", "[aria-selected=false]"];
        assert_ne!(style(open, "border-bottom-width").await, style(closed, "border-bottom-width").await);
    })
    .await;
}

#[tokio::test]
async fn a_browser_that_runs_no_wasm_is_told_so() {
    with_browser("no_wasm", &[], async |page, _server| {
        page.find("email").await;
        for blocked in [
            "delete window.WebAssembly",
            "WebAssembly.Module = class { constructor() { throw new WebAssembly.CompileError('a policy') } }",
        ] {
            page.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": blocked })).await;
            page.refresh().await;
            let shown = "return [...document.querySelectorAll('.broken:not([hidden])')].map((part) => [part.id, part.querySelectorAll('a').length])";
            until("it is said", async || page.run(shown, Vec::new()).await == json!([["no-wasm", 0]])).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_title_is_written_once_a_second_at_most() {
    const OBSERVE: &str = r"
        window.titles = [];
        new MutationObserver(() => window.titles.push([performance.now(), document.title]))
            .observe(document.querySelector('title'), { childList: true, characterData: true, subtree: true });
    ";
    let settings = [("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "300")];
    with_browser("title", &settings, async |page, _server| {
        sign_up(&page).await;
        page.click("start").await;
        page.find("stop").await;
        until("the title speaks of the session", async || {
            page.run("return document.title", Vec::new())
                .await
                .as_str()
                .is_some_and(|title| title.contains("left"))
        })
        .await;
        page.run(OBSERVE, Vec::new()).await;
        until("it was written four times", async || {
            page.run("return window.titles.length >= 4", Vec::new())
                .await
                == true
        })
        .await;
        let titles = page.run("return window.titles", Vec::new()).await;
        let titles: Vec<(f64, String)> = serde_json::from_value(titles).unwrap();
        for pair in titles.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= 900.0, "{titles:?}");
        }
    })
    .await;
}
