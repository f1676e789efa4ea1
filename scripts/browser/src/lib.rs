//! A private headless Chromium, driven over `WebDriver`: for the tests of the page and for its benchmark.
//!
//! It needs chromedriver, from the PATH or from the environment's `CHROMEDRIVER`.

use std::{
    io::{BufRead as _, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::Context;
use fantoccini::{ClientBuilder, wd::WebDriverCompatibleCommand};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

pub use fantoccini::{Client, Locator, elements::Element, wd::WindowHandle};

/// What chromedriver says before its port.
const STARTED: &str = "started successfully on port ";

/// A browser with a profile of its own, and the driver that it hangs on. [`Browser::close`] ends both;
/// what is dropped instead leaves the end of the browser to the driver's.
pub struct Browser {
    client: Client,
    _driver: Driver,
}

struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        // It may have ended already, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Browser {
    /// Starts one with an empty profile, kept in `folder`.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let (driver, port) = start_driver()?;
        let profile = folder.join("profile");
        let options = json!({
            "args": [
                "--headless=new",
                // Its sandbox needs rights that a container does not have; it sees our own page only.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--disable-background-networking",
                "--no-first-run",
                "--window-size=1280,900",
                format!("--user-data-dir={}", profile.display()),
            ],
        });
        let capabilities = [("goog:chromeOptions".to_owned(), options)];
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.into_iter().collect())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .context("no browser; is chromium installed?")?;
        Ok(Self {
            client,
            _driver: driver,
        })
    }

    /// What drives it.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Closes the browser; whatever went wrong before, none stays behind.
    pub async fn close(self) -> anyhow::Result<()> {
        self.client
            .close()
            .await
            .context("the browser does not close")
    }
}

/// Sends `command` of Chrome's own protocol to the window that `client` drives, with `parameters`, and returns
/// its result. `WebDriver` has no word for a dark screen, a narrow one or another language.
pub async fn devtools(client: &Client, command: &str, parameters: Value) -> anyhow::Result<Value> {
    let call = DevTools {
        body: json!({ "cmd": command, "params": parameters }).to_string(),
    };
    client
        .issue_cmd(call)
        .await
        .with_context(|| format!("the browser does not do {command}"))
}

#[derive(Debug)]
struct DevTools {
    body: String,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        let session = session_id.unwrap_or_default();
        base_url.join(&format!("session/{session}/goog/cdp/execute"))
    }

    fn method_and_body(&self, _request_url: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.clone()))
    }
}

/// Starts chromedriver on a free port.
fn start_driver() -> anyhow::Result<(Driver, u16)> {
    let program = std::env::var("CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
    let mut child = Command::new(&program)
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't run {program}; install chromium-driver"))?;
    let output = child.stdout.take().context("it has no output")?;
    let driver = Driver(child);
    let mut lines = BufReader::new(output).lines();
    let port = port_of(&mut lines).with_context(|| format!("{program} does not say its port"))?;
    // It writes on, and must not find its output closed.
    std::thread::spawn(move || lines.for_each(drop));
    Ok((driver, port))
}

fn port_of(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<u16> {
    lines.map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once(STARTED)?;
        port.trim_end_matches('.').parse().ok()
    })
}
