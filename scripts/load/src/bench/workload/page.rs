//! `page`: the dashboard in a real Chromium, for a user who is logged in. How long it takes until the
//! first balance is on the screen, cold: each load is by a browser that has just started, with nothing
//! in its caches.
//!
//! The browser itself says when it had painted the balance, counted from the beginning of the navigation:
//! it times the largest text of a page (Largest Contentful Paint), and that is the balance. What the
//! balance says does not matter here; the browser's tests look at that.

use std::time::Duration;

use anyhow::{Context, ensure};
use browser::Browser;
use serde::Deserialize;
use serde_json::json;

use super::shared::{self, CREDITS, INTERVAL};
use crate::{
    bench::{
        figures::{Goal, Outcome, Unit, number},
        place::{Bench, Place, Server, StoreKind},
    },
    hiccup,
};

/// How long a browser is left alone after its start, so that the page alone is measured.
const BROWSER_SETTLE: Duration = Duration::from_secs(2);
/// How long a balance may take to come; then the load has failed.
const PATIENCE_MS: u32 = 20_000;
/// Where the page keeps the bearer token.
const TOKEN_KEY: &str = "minute-credit.token";
/// The balance on the page.
const BALANCE: &str = "[data-testid=balance]";

/// Waits until the balance is painted; answers with milliseconds since the navigation and with bytes.
const LOOK: &str = r"
    const [selector, patience, done] = arguments;
    const gaveUp = setTimeout(() => done(null), patience);
    new PerformanceObserver((list, observer) => {
        const balance = list.getEntries().find(entry => entry.element?.matches(selector));
        if (!balance) return;
        observer.disconnect();
        clearTimeout(gaveUp);
        const received = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
            .filter(entry => entry.responseEnd <= balance.renderTime);
        done({
            paintedMs: balance.renderTime,
            receivedBytes: received.reduce((sum, entry) => sum + entry.transferSize, 0),
        });
    }).observe({ type: 'largest-contentful-paint', buffered: true });
";

/// What the browser says of a load.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Load {
    painted_ms: f64,
    received_bytes: u64,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct PagePlan {
    /// Where.
    pub store: StoreKind,
    /// How often the page is loaded.
    pub loads: usize,
}

impl PagePlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        format!("the page loaded by {} new browsers", self.loads)
    }

    /// What is wanted of it.
    pub fn goals() -> Vec<Goal> {
        vec![
            Goal::at_most("first_balance", 1_000.0).of_part("p99"),
            Goal::at_most("received", 200_000.0),
        ]
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut place = Place::new(bench, self.store, &shared::many_clients())?;
        let users = place.users(1, CREDITS, Some(INTERVAL))?;
        let server = place.serve()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut painted = hiccup::new_histogram();
        let mut received = 0;
        for _ in 0..self.loads {
            let load = runtime.block_on(load(&server, users.token(0)))?;
            let micros = Duration::from_secs_f64(load.painted_ms / 1_000.0).as_micros();
            painted.saturating_record(u64::try_from(micros)?);
            received = load.received_bytes.max(received);
        }
        outcome.add_micros("first_balance", "to the first balance painted", &painted, 0);
        outcome.add(
            "received",
            "received until then, compressed, with the API's replies",
            Unit::Bytes,
            number(received),
        );
        shared::finish(outcome, server, &place)
    }
}

/// Loads the page in a browser of its own.
async fn load(server: &Server, token: &str) -> anyhow::Result<Load> {
    let folder = tempfile::tempdir()?;
    let browser = Browser::start(folder.path()).await?;
    tokio::time::sleep(BROWSER_SETTLE).await;
    let load = load_in(&browser, server, token).await;
    browser.close().await?;
    load
}

async fn load_in(browser: &Browser, server: &Server, token: &str) -> anyhow::Result<Load> {
    let (client, origin) = (browser.client(), format!("http://{}", server.address));
    // Storage belongs to the origin: any document of it will do, and this one brings nothing of the page.
    client.goto(&format!("{origin}/healthz")).await?;
    let keep = "localStorage.setItem(arguments[0], arguments[1])";
    let kept = vec![json!(TOKEN_KEY), json!(token)];
    client.execute(keep, kept).await?;
    client.goto(&format!("{origin}/")).await?;
    let arguments = vec![json!(BALANCE), json!(PATIENCE_MS)];
    let load = client.execute_async(LOOK, arguments).await?;
    let load: Option<Load> = serde_json::from_value(load)?;
    let load = load.context("the page shows no balance")?;
    ensure!(load.painted_ms > 0.0, "the browser does not tell times");
    Ok(load)
}
