//! The whole of it as a person has it: a real Chromium on the real program.
//!
//! What the page showed and when is noted in the page, what the server said is read beside it from a
//! websocket and from the API, and both are compared with the tariff's arithmetic. Nothing is said
//! about how fast a machine is.
//!
//! It needs chromedriver, from the PATH or from `CHROMEDRIVER`, and fails without it; `TEST_BROWSER=off`
//! leaves these tests out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that panics has failed"
)]

mod looks;
mod page;
mod proxy;
mod server;
mod states;
mod truth;
mod wait;

use std::{panic::AssertUnwindSafe, path::PathBuf};

use browser::Browser;
use futures_util::{FutureExt as _, StreamExt as _};
use page::Page;
use schema::{
    account::User,
    ledger::{EntryKind, LedgerPage},
    session::{EndReason, LiveBalance, SessionPage},
    websocket::{CreditUpdate, ServerMessage},
};
use server::Server;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use wait::until;

const EMAIL: &str = "ada@example.com";
const PASSWORD: &str = "correct horse battery";

/// Both clocks read whole milliseconds, each with its own rounding.
const ROUNDING_MS: i64 = 5;

/// Runs `story` with a browser and a server of its own. If it fails, a picture of the page is kept.
async fn with_browser(
    name: &str,
    settings: &[(&'static str, &str)],
    story: impl AsyncFnOnce(Page, &mut Server),
) {
    if std::env::var("TEST_BROWSER").is_ok_and(|value| value == "off") {
        println!("left out: TEST_BROWSER is off");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), settings).await;
    let browser = Browser::start(folder.path()).await.expect(
        "a browser; without chromium and its driver, TEST_BROWSER=off leaves these tests out",
    );
    let page = Page::of(&browser);
    page.open(&server.url()).await;
    let told = AssertUnwindSafe(story(page.clone(), &mut server))
        .catch_unwind()
        .await;
    if let Err(panic) = told {
        let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(kept.join(format!("{name}.png")), page.screenshot().await).unwrap();
        let log = std::fs::read_to_string(folder.path().join("server.log")).unwrap();
        eprintln!(
            "a picture of the page is in {}; the server's log:\n{log}",
            kept.display()
        );
        browser.close().await.unwrap();
        std::panic::resume_unwind(panic);
    }
    browser.close().await.unwrap();
}

async fn sign_up(page: &Page) {
    page.submit(EMAIL, PASSWORD).await;
    page.find("balance").await;
    page.until_text("connection", "Live").await;
}

/// A websocket beside the page, for what the server says.
async fn watch(server: &Server, token: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    let url = format!("ws://127.0.0.1:{}/?token={token}", server.port);
    tokio_tungstenite::client_async(url, stream)
        .await
        .unwrap()
        .0
}

/// The next balance that the server says.
async fn next_update(socket: &mut WebSocketStream<TcpStream>) -> CreditUpdate {
    loop {
        if let Message::Text(text) = socket.next().await.expect("an open socket").unwrap()
            && let Ok(ServerMessage::CreditUpdate(update)) = serde_json::from_str(&text)
        {
            return update;
        }
    }
}

/// What the page shows lies between what the API says before and after.
async fn agrees_with_api(page: &Page, server: &Server, token: &str) -> bool {
    let before: LiveBalance = server.get("/api/sessions/credits", token).await;
    let Some(shown) = page
        .text("balance")
        .await
        .and_then(|text| text.parse::<i64>().ok())
    else {
        return false;
    };
    let after: LiveBalance = server.get("/api/sessions/credits", token).await;
    before.credits.get() >= shown && shown >= after.credits.get()
}

/// The history and the ledger say that one session took `consumed` of `opening` credits.
async fn check_records(
    server: &Server,
    token: &str,
    opening: i64,
    consumed: i64,
    reason: EndReason,
) {
    let history: SessionPage = server.get("/api/sessions", token).await;
    let [session] = history.sessions.as_slice() else {
        panic!("one session: {history:?}")
    };
    assert_eq!(
        (session.credits_consumed.get(), session.end_reason),
        (consumed, Some(reason))
    );
    assert_eq!(
        consumed,
        session.served_ms.get() / session.interval_ms.get() * session.credits_per_interval.get()
    );

    let ledger: LedgerPage = server.get("/api/ledger", token).await;
    let entries: Vec<_> = ledger
        .entries
        .iter()
        .map(|entry| (entry.kind, entry.amount.get(), entry.balance_after.get()))
        .collect();
    let grant = (EntryKind::SignupGrant, opening, opening);
    let usage = (EntryKind::Usage, -consumed, opening - consumed);
    assert_eq!(
        entries,
        if consumed > 0 {
            vec![usage, grant]
        } else {
            vec![grant]
        }
    );

    let me: User = server.get("/api/auth/me", token).await;
    assert_eq!((me.credits.get(), me.session), (opening - consumed, None));
}

#[tokio::test]
async fn credits_fall_until_stop_is_pressed() {
    let settings = [("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "1000")];
    with_browser("credits_fall", &settings, async |page, server| {
        sign_up(&page).await;
        assert_eq!(page.balance().await, 100);
        let token = page.token().await;
        let mut socket = watch(server, &token).await;
        assert_eq!(next_update(&mut socket).await.credits.get(), 100);

        page.observe().await;
        page.click("start").await;
        page.find("stop").await;
        until("the page has shown three falls", async || {
            page.shown().await.len() >= 4
        })
        .await;
        let shown = page.shown().await;

        // What the server said is what the tariff says, at the instants that it said it for.
        let mut said = Vec::new();
        let mut started_ms = 0;
        while said.last() != Some(&97) {
            let update = next_update(&mut socket).await;
            let session = update.session.expect("a session");
            let (as_of_ms, credits) = (update.as_of.get(), update.credits.get());
            started_ms = session.started_at.get();
            assert_eq!(credits, 100 - (as_of_ms - started_ms) / 1_000, "{update:?}");
            assert_eq!(session.consumed.get(), 100 - credits);
            assert_eq!(session.depletes_at.unwrap().get(), started_ms + 100 * 1_000);
            if said.last() != Some(&credits) {
                said.push(credits);
            }
        }
        assert_eq!(said, [100, 99, 98, 97]);

        // The page showed each of them, in order and none too early.
        let balances: Vec<_> = shown.iter().take(4).map(|shown| shown.credits).collect();
        assert_eq!(balances, [100, 99, 98, 97]);
        for (intervals, fall) in (0..).zip(&shown).skip(1) {
            let earliest_ms = started_ms + intervals * 1_000;
            assert!(
                fall.at + ROUNDING_MS >= earliest_ms,
                "{fall:?} before {earliest_ms}"
            );
        }

        // A second tab agrees with the first.
        let first = page.open_tab(&server.url()).await;
        page.until_text("connection", "Live").await;
        page.find("stop").await;
        let in_second = page.balance().await;
        let second = page.switch_to(first).await;
        until(
            "the first tab has come to what the second showed",
            async || page.balance().await <= in_second,
        )
        .await;
        let in_first = page.balance().await;
        let first = page.switch_to(second).await;
        until(
            "the second tab has come to what the first showed",
            async || page.balance().await <= in_first,
        )
        .await;
        page.switch_to(first).await;

        // A refresh loses nothing.
        let before = page.balance().await;
        page.refresh().await;
        page.find("stop").await;
        page.until_text("connection", "Live").await;
        assert!(page.balance().await <= before);
        until("the page agrees with the API", async || {
            agrees_with_api(&page, server, &token).await
        })
        .await;

        page.click("stop").await;
        page.find("start").await;
        let left: LiveBalance = server.get("/api/sessions/credits", &token).await;
        page.until_text("balance", &left.credits.to_string()).await;
        let consumed = 100 - left.credits.get();
        assert!(consumed >= 3);
        check_records(server, &token, 100, consumed, EndReason::User).await;

        // So do the page's own tables.
        page.click("tab-sessions").await;
        until("the history has the session", async || {
            page.count("sessions-row").await == 1
        })
        .await;
        page.click("tab-wallet").await;
        until("the wallet has both movements", async || {
            page.count("ledger-row").await == 2
        })
        .await;

        page.click("logout").await;
        page.find("email").await;
    })
    .await;
}

#[tokio::test]
async fn a_session_ends_by_itself_at_zero() {
    let settings = [
        ("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "500"),
        ("MINUTE_CREDIT__SIGNUP__CREDITS", "5"),
    ];
    with_browser("ends_at_zero", &settings, async |page, server| {
        sign_up(&page).await;
        let token = page.token().await;
        page.observe().await;
        page.click("start").await;
        page.find("end-card").await;
        assert_eq!(
            page.attribute("end-card", "data-reason").await.as_deref(),
            Some("depleted")
        );
        page.until_text("balance", "0").await;
        let balances: Vec<_> = page
            .shown()
            .await
            .iter()
            .map(|shown| shown.credits)
            .collect();
        assert!(
            balances.is_sorted_by(|before, after| before > after),
            "a balance rose: {balances:?}"
        );

        let history: SessionPage = server.get("/api/sessions", &token).await;
        let session = history.sessions[0];
        assert_eq!(
            session.ended_at.unwrap().since(session.started_at).get(),
            5 * 500
        );
        check_records(server, &token, 5, 5, EndReason::Depleted).await;

        // Nothing is left to start with.
        page.find("start").await;
        assert_eq!(
            page.attribute("start", "aria-disabled").await.as_deref(),
            Some("true")
        );
    })
    .await;
}

#[tokio::test]
async fn the_page_outlives_a_killed_server() {
    let settings = [("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "1000")];
    with_browser("killed_server", &settings, async |page, server| {
        sign_up(&page).await;
        let token = page.token().await;
        page.click("start").await;
        until("something was charged", async || page.balance().await <= 98).await;
        let before = server
            .get::<LiveBalance>("/api/sessions/credits", &token)
            .await;

        server.kill();
        until("the page has seen it", async || {
            page.text("connection").await.as_deref() != Some("Live")
        })
        .await;
        assert!(
            page.is_there("balance").await,
            "the last balance stays in sight"
        );
        assert!(
            page.is_there("stop").await,
            "the session is not taken for ended"
        );

        server.start_again().await;
        page.until_text("connection", "Live").await;
        let after = server
            .get::<LiveBalance>("/api/sessions/credits", &token)
            .await;
        assert_eq!(
            after
                .session
                .map(|session| (session.session_id, session.started_at)),
            before
                .session
                .map(|session| (session.session_id, session.started_at)),
            "the same session lives on"
        );
        until("the page agrees with the API", async || {
            agrees_with_api(&page, server, &token).await
        })
        .await;
        let resumed = page.balance().await;
        until("the balance falls again", async || {
            page.balance().await < resumed
        })
        .await;

        page.click("stop").await;
        page.find("start").await;
        let left: LiveBalance = server.get("/api/sessions/credits", &token).await;
        page.until_text("balance", &left.credits.to_string()).await;
        check_records(
            server,
            &token,
            100,
            100 - left.credits.get(),
            EndReason::User,
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn refusals_stand_where_they_belong() {
    with_browser("refusals", &[], async |page, server| {
        let check = async |email: &str, password: &str, where_it_stands: &str, word: &str| {
            page.submit(email, password).await;
            until(&format!("{where_it_stands} speaks of {word}"), async || {
                page.text(where_it_stands)
                    .await
                    .is_some_and(|text| text.to_lowercase().contains(word))
            })
            .await;
        };
        check("ada", PASSWORD, "email-error", "email").await;
        check(EMAIL, "short", "password-error", "8").await;
        assert!(!page.is_there("balance").await);
        sign_up(&page).await;
        page.click("logout").await;
        page.find("email").await;

        if page.form_mode().await == "log-in" {
            page.click("switch-mode").await;
        }
        check(EMAIL, PASSWORD, "email-error", "email").await;
        page.click("switch-mode").await;
        check(EMAIL, "wrong horse battery", "form-error", "password").await;
        page.submit(EMAIL, PASSWORD).await;
        assert_eq!(page.balance().await, 100);
        let me: User = server.get("/api/auth/me", &page.token().await).await;
        assert_eq!(me.email, EMAIL);
    })
    .await;
}

#[tokio::test]
async fn a_password_is_changed_and_all_logins_end() {
    const NEW_PASSWORD: &str = "battery staple";
    with_browser("account", &[], async |page, _server| {
        let change = async |current: &str, new: &str| {
            page.fill("current-password", current).await;
            page.fill("new-password", new).await;
            page.click("change-password").await;
        };
        sign_up(&page).await;
        page.click("account").await;
        change("wrong horse battery", NEW_PASSWORD).await;
        page.find("current-password-error").await;
        change(PASSWORD, "short").await;
        page.find("new-password-error").await;
        change(PASSWORD, NEW_PASSWORD).await;
        until("the panel is gone", async || {
            !page.is_there("account-panel").await
        })
        .await;
        page.until_text("connection", "Live").await;

        page.click("account").await;
        page.click("logout-everywhere").await;
        page.find("reason").await;
        page.submit(EMAIL, PASSWORD).await;
        page.find("form-error").await;
        page.submit(EMAIL, NEW_PASSWORD).await;
        assert_eq!(page.balance().await, 100);
    })
    .await;
}
