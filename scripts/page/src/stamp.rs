//! Remembers what `web-ui/dist` was made from, so that the same is not made twice.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::site::hex;

/// A digest of all that goes into the site, and the place where the last one is kept.
pub(crate) struct Stamp {
    digest: String,
    kept_at: PathBuf,
}

impl Stamp {
    /// The stamp of the compiled program, the files in `sources` and this very builder.
    pub(crate) fn new(root: &Path, compiled: &Path, sources: &Path) -> Result<Self> {
        let builder = env::current_exe().context("can't tell where this program lies")?;
        let mut parts = vec![builder, compiled.to_owned()];
        for entry in
            fs::read_dir(sources).with_context(|| format!("can't list {}", sources.display()))?
        {
            parts.push(entry?.path());
        }
        parts[2..].sort();
        let mut digest = Sha256::new();
        for part in &parts {
            let bytes = fs::read(part).with_context(|| format!("can't read {}", part.display()))?;
            digest.update(Sha256::digest(&bytes));
        }
        let digest = hex(&digest.finalize());
        // Not in `dist`: everything there is embedded and served.
        let kept_at = compiled.parent().unwrap_or(root).join("page.stamp");
        Ok(Self { digest, kept_at })
    }

    /// Whether `dist` was made from the same, and is still there.
    pub(crate) fn holds_for(&self, dist: &Path) -> bool {
        let kept = fs::read_to_string(&self.kept_at);
        dist.join("index.html.br").is_file() && kept.is_ok_and(|kept| kept == self.digest)
    }

    /// Notes that `dist` is made from this now.
    pub(crate) fn leave(&self) -> Result<()> {
        fs::write(&self.kept_at, &self.digest)
            .with_context(|| format!("can't write {}", self.kept_at.display()))
    }
}
