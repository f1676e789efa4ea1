//! Each state of the page in each look.

use schema::session::LiveBalance;
use sqlx::Connection as _;

use crate::{
    EMAIL, PASSWORD,
    looks::check,
    page::Page,
    proxy::{Proxy, Way},
    server::Server,
    sign_up,
    wait::until,
    watch, with_browser,
};

/// A state that stays by itself.
async fn stays() {}

#[tokio::test]
async fn the_card_has_no_barriers() {
    with_browser("card", &[], async |page, _server| {
        page.find("submit").await;
        check(&page, "sign-up", stays).await;
        page.click("submit").await;
        page.find("password-error").await;
        check(&page, "sign-up-with-errors", stays).await;
        page.click("switch-mode").await;
        page.submit(
            "nobody-with-a-rather-long-name@department.example.com",
            "wrong horse battery",
        )
        .await;
        page.find("form-error").await;
        check(&page, "log-in-refused", stays).await;

        page.click("switch-mode").await;
        sign_up(&page).await;
        page.click("start").await;
        page.find("stop").await;
        page.click("logout").await;
        page.find("reason").await;
        check(&page, "logged-out", stays).await;
    })
    .await;
}

/// Sees to it that the wallet holds so many credits: with one a second, so many seconds are left.
async fn hold_credits(server: &Server, token: &str, wanted: i64) {
    // Time moves nothing between what is left and what was used.
    let ask = async || {
        let balance: LiveBalance = server.get("/api/sessions/credits", token).await;
        let consumed = balance.session.map_or(0, |session| session.consumed.get());
        (balance.credits.get(), balance.credits.get() + consumed)
    };
    let (credits, opening) = ask().await;
    if credits != wanted {
        server.change_credits(EMAIL, wanted - credits).await;
        until("the change is known", async || ask().await.1 != opening).await;
    }
}

async fn dismiss_all(page: &Page) {
    while page.is_there("notice").await {
        let dismiss = "document.querySelector('.notice button')?.click()";
        page.run(dismiss, Vec::new()).await;
    }
}

/// Sees to it that a session runs that has so many seconds left, and that the board is at this level by that.
async fn hold_level(page: &Page, server: &Server, token: &str, level: &str, left_s: i64) {
    const HAS_CLASS: &str =
        "return document.querySelector('main.board')?.classList.contains(arguments[0]) ?? false";
    until(&format!("the board is {level:?}"), async || {
        hold_credits(server, token, left_s).await;
        // On a slow machine the session may have run out before.
        if page.is_there("start").await {
            page.click("start").await;
        }
        page.run(HAS_CLASS, vec![level.into()]).await == true
    })
    .await;
}

#[tokio::test]
async fn a_wallet_has_no_barriers_from_full_to_empty() {
    let settings = [("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "1000")];
    with_browser("wallet", &settings, async |page, server| {
        sign_up(&page).await;
        let token = page.token().await;
        check(&page, "idle-new", stays).await;

        page.click("account").await;
        page.fill("new-password", "short").await;
        page.click("change-password").await;
        page.find("new-password-error").await;
        check(&page, "account-open", stays).await;
        page.click("close-account").await;

        server.change_credits(EMAIL, 123_400).await;
        page.click("start").await;
        page.find("stop").await;
        dismiss_all(&page).await;
        check(&page, "running", stays).await;
        server.change_credits(EMAIL, -100_000).await;
        page.find("notice").await;
        page.click("tab-wallet").await;
        page.find("ledger-live").await;
        check(&page, "running-with-notices", stays).await;

        // It is low in the last fifth, so it has to have run for a while.
        check(&page, "low", async || {
            hold_level(&page, server, &token, "low", 13).await;
        })
        .await;
        check(&page, "last", async || {
            hold_level(&page, server, &token, "last", 9).await;
        })
        .await;

        page.find("end-card").await;
        page.until_text("balance", "0").await;
        check(&page, "ended", stays).await;
        dismiss_all(&page).await;
        page.run(
            "document.querySelector('[data-testid=end-card] button').click()",
            Vec::new(),
        )
        .await;
        server.change_credits(EMAIL, 50).await;
        page.until_text("balance", "50").await;
        page.click("tab-sessions").await;
        check(&page, "idle-with-history", stays).await;
    })
    .await;
}

#[tokio::test]
async fn trouble_has_no_barriers() {
    let settings = [
        ("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "1000"),
        ("MINUTE_CREDIT__SOCKETS__PER_USER_MAX", "1"),
        ("MINUTE_CREDIT__OUTAGE__GRACE_MS", "4000"),
    ];
    with_browser("trouble", &settings, async |page, server| {
        let proxy = Proxy::before(server.port).await;
        page.open(&proxy.url()).await;
        sign_up(&page).await;
        let token = page.token().await;
        page.click("start").await;
        page.find("stop").await;

        // The database takes nothing, so nothing is charged.
        let mut other =
            sqlx::SqliteConnection::connect(&format!("sqlite://{}", server.database().display()))
                .await
                .unwrap();
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut other)
            .await
            .unwrap();
        page.until_text("time-left", "Paused: nothing is charged")
            .await;
        check(&page, "paused", stays).await;
        sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
        until("time goes on", async || {
            page.text("time-left")
                .await
                .is_some_and(|text| text.ends_with("left"))
        })
        .await;

        proxy.set(Way::Closed);
        page.find("as-of").await;
        check(&page, "disconnected", stays).await;
        page.click("stop").await;
        until("the page has given up", async || {
            page.text("notice")
                .await
                .is_some_and(|text| text.contains("It is not known whether"))
        })
        .await;
        assert_eq!(page.count("notice").await, 1, "nothing contradicts it");
        check(&page, "given-up", stays).await;

        proxy.set(Way::Open);
        page.until_text("connection", "Live").await;
        page.open(&format!("{}elsewhere", server.url())).await;
        page.find("notice").await;
        page.click("switch-mode").await;
        page.submit(EMAIL, PASSWORD).await;
        page.until_text("connection", "Live").await;
        // The only place is taken before the page comes back.
        page.open("about:blank").await;
        let mut first = watch(server, &token).await;
        crate::next_update(&mut first).await;
        page.open(&server.url()).await;
        until("the reason is said", async || {
            page.text("as-of")
                .await
                .is_some_and(|text| text.contains("Too many connections"))
        })
        .await;
        page.find("balance").await;
        check(&page, "refused", stays).await;
    })
    .await;
}
