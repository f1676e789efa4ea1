//! Makes sure that the folder of the page is there, and that a release is built anew when the page is.

use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    fs::create_dir_all("../web-ui/dist")?;
    // Other profiles read the page at run time, see rust-embed.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rerun-if-changed=../web-ui/dist");
    }
    Ok(())
}
