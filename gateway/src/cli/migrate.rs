//! `minute-credit migrate`

use std::process::ExitCode;

use crate::settings::Settings;

pub(super) async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    settings.make_data_dir()?;
    let (store, _) = super::open(settings).await?;
    store.close().await;
    println!("the database's schema is up to date");
    Ok(ExitCode::SUCCESS)
}
