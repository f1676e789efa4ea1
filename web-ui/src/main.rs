//! Starts the page in a browser.

/// Mounts the page where `index.html` has its skeleton.
fn main() {
    #[cfg(target_arch = "wasm32")]
    web_ui::browser::start();
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("web-ui runs in a browser: `cargo run -p page` builds it");
}
