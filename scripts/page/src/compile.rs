//! From Rust to wasm and the JavaScript that loads it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use wasm_bindgen_cli_support::Bindgen;

const TARGET: &str = "wasm32-unknown-unknown";

/// The page's program, and what binds it to the browser.
pub(crate) struct Glue {
    /// An ES module whose default export starts the program.
    pub(crate) javascript: Vec<u8>,
    /// The program.
    pub(crate) wasm: Vec<u8>,
}

/// Compiles `web-ui` and returns the path of the wasm that rustc wrote.
///
/// The `page` profile has its own folder under `target`, so builds for the host are not disturbed.
pub(crate) fn compile(root: &Path) -> Result<PathBuf> {
    require_target()?;
    let output = Command::new(cargo())
        .current_dir(root)
        .args([
            "build",
            "--package",
            "web-ui",
            "--bin",
            "web-ui",
            "--profile",
            "page",
            "--target",
            TARGET,
        ])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("can't run cargo")?;
    if !output.status.success() {
        bail!("cargo could not build web-ui for {TARGET}");
    }
    let messages =
        String::from_utf8(output.stdout).context("cargo wrote something other than UTF-8")?;
    messages
        .lines()
        .filter_map(wasm_named_by)
        .next_back()
        .context("cargo named no wasm file")
}

/// Runs wasm-bindgen over the compiled program.
pub(crate) fn bind(compiled: &Path) -> Result<Glue> {
    let program =
        fs::read(compiled).with_context(|| format!("can't read {}", compiled.display()))?;
    let mut output = Bindgen::new()
        .input_bytes("web-ui", program)
        .web(true)?
        .typescript(false)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate_output()
        .context("wasm-bindgen failed")?;
    ensure!(
        output.snippets().values().all(Vec::is_empty) && output.local_modules().is_empty(),
        "a dependency brings JavaScript files of its own, which this builder does not serve"
    );
    Ok(Glue {
        javascript: output.js().as_bytes().to_vec(),
        wasm: output.wasm_mut().emit_wasm(),
    })
}

/// The wasm file in one line of what cargo says, if that line names one.
fn wasm_named_by(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let names = message.get("filenames")?.as_array()?;
    names
        .iter()
        .filter_map(serde_json::Value::as_str)
        .map(PathBuf::from)
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
}

fn require_target() -> Result<()> {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .context("can't run rustc")?;
    let folder = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && Path::new(folder.trim()).is_dir(),
        "the standard library for {TARGET} is missing: run `rustup target add {TARGET}`"
    );
    Ok(())
}

fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_wasm_among_cargos_messages() {
        let check = |line, wasm: Option<&str>| {
            assert_eq!(wasm_named_by(line), wasm.map(PathBuf::from), "{line}");
        };
        check(
            r#"{"reason":"compiler-artifact","filenames":["/t/libschema.rlib"]}"#,
            None,
        );
        check(
            r#"{"reason":"compiler-artifact","filenames":["/t/web-ui.js","/t/web-ui.wasm"]}"#,
            Some("/t/web-ui.wasm"),
        );
        check(r#"{"reason":"build-finished","success":true}"#, None);
        check("not json", None);
    }
}
