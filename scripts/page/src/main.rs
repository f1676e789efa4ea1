//! Builds the page: `cargo run -p page`.
//!
//! In order: cargo compiles `web-ui` to wasm, wasm-bindgen writes its glue, every file gets its
//! content's hash into its name, `index.html` is filled in with those names, and each file gets a
//! brotli and a gzip neighbour. The result is `web-ui/dist`, which the gateway embeds. Where nothing
//! has changed since the last time, nothing is written, so that the gateway isn't rebuilt either.

mod compile;
mod compress;
mod site;
mod stamp;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};

/// What all files may weigh together, as brotli sends them.
const WEIGHT_BYTES_MAX: usize = 200 * 1024;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = workspace_root()?;
    let sources = root.join("web-ui/static");
    let dist = root.join("web-ui/dist");

    let compiled = compile::compile(&root)?;
    let stamp = stamp::Stamp::new(&root, &compiled, &sources)?;
    if stamp.holds_for(&dist) {
        println!("web-ui/dist is up to date");
        return Ok(());
    }

    let glue = compile::bind(&compiled)?;
    let files = compress::with_neighbours(site::assemble(&sources, glue)?)?;
    let weight_bytes = report(&files);
    if weight_bytes > WEIGHT_BYTES_MAX {
        bail!(
            "the page weighs {weight_bytes} bytes compressed, more than the {WEIGHT_BYTES_MAX} allowed"
        );
    }
    site::write(&dist, &files)?;
    stamp.leave()
}

/// The folder of the workspace: the nearest one above the current folder that has a `web-ui`.
fn workspace_root() -> Result<PathBuf> {
    let here = env::current_dir().context("can't tell the current folder")?;
    here.ancestors()
        .find(|folder| folder.join("web-ui/static/index.html").is_file())
        .map(PathBuf::from)
        .context("run this inside the Minute-Credit workspace: there is no web-ui/static/index.html above")
}

/// Prints what each file weighs and returns the sum as brotli sends it.
fn report(files: &[compress::Served]) -> usize {
    println!("{:>9} {:>9} {:>9}  file", "plain", "gzip", "brotli");
    for served in files {
        let (plain, gzip, brotli) = (
            served.file.bytes.len(),
            served.gzip.len(),
            served.brotli.len(),
        );
        println!("{plain:>9} {gzip:>9} {brotli:>9}  {}", served.file.path);
    }
    let weight_bytes = files.iter().map(|served| served.brotli.len()).sum();
    println!("{:>9} {:>9} {weight_bytes:>9}  together", "", "");
    weight_bytes
}
