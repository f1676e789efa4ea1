//! Settings files, and the environment's values.

#![no_main]

use std::{collections::BTreeMap, fs, sync::LazyLock};

use gateway::settings::Settings;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static HOME: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary folder"));

fuzz_target!(|input: &[u8]| {
    let file = HOME.path().join("settings.toml");
    fs::write(&file, input).expect("the settings are written");
    let of_file = Settings::from_sources(Some(&file), &BTreeMap::new());
    if let Err(error) = of_file {
        // What is told about it is made of the input too.
        let _ = error.to_string();
    }
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    // Each line a variable of ours.
    let environment = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (format!("MINUTE_CREDIT__{key}"), value.to_owned()))
        .collect();
    if let Err(error) = Settings::from_sources(None, &environment) {
        let _ = error.to_string();
    }
});
