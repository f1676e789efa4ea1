//! The files of the site: their names, and how they refer to each other.
//!
//! Every file but `index.html` has a hash of its content in its name, so that a browser may keep it
//! for ever. A file is named after those that it refers to are, since their names are part of it.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{compile::Glue, compress::Served};

/// A file of the site.
pub(crate) struct File {
    /// Where it is served, without the leading slash.
    pub(crate) path: String,
    /// What is in it.
    pub(crate) bytes: Vec<u8>,
}

impl File {
    /// `assets/<stem>-<hash>.<extension>`.
    fn fingerprinted(stem: &str, extension: &str, bytes: Vec<u8>) -> Self {
        Self {
            path: format!("assets/{stem}-{}.{extension}", fingerprint(&bytes)),
            bytes,
        }
    }
}

/// Makes the site's files from what stands in `sources` and the compiled program.
pub(crate) fn assemble(sources: &Path, glue: Glue) -> Result<Vec<File>> {
    let read = |name: &str| {
        let path = sources.join(name);
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    };
    let script = File::fingerprinted("web-ui", "js", glue.javascript);
    let program = File::fingerprinted("web-ui", "wasm", glue.wasm);
    let style = File::fingerprinted(
        "web-ui",
        "css",
        shorten_css(&read("page.css")?).into_bytes(),
    );
    let icon = File::fingerprinted("favicon", "svg", read("favicon.svg")?.into_bytes());
    let boot = fill(
        &read("boot.js")?,
        &[("script", &script.path), ("program", &program.path)],
    )?;
    let boot = File::fingerprinted("boot", "js", boot.into_bytes());
    let index = fill(
        &read("index.html")?,
        &[
            ("script", &script.path),
            ("program", &program.path),
            ("style", &style.path),
            ("icon", &icon.path),
            ("boot", &boot.path),
        ],
    )?;
    let index = File {
        path: "index.html".into(),
        bytes: index.into_bytes(),
    };
    Ok(vec![script, program, style, icon, boot, index])
}

/// Writes `files` under `dist` and removes what is there from earlier builds. `index.html` comes
/// last of the new files, so that it never names one that isn't there yet.
pub(crate) fn write(dist: &Path, files: &[Served]) -> Result<()> {
    fs::create_dir_all(dist.join("assets"))
        .with_context(|| format!("can't make {}", dist.display()))?;
    let mut written = BTreeSet::new();
    for Served { file, brotli, gzip } in files {
        for (suffix, bytes) in [(".br", brotli), (".gz", gzip), ("", &file.bytes)] {
            let path = dist.join(format!("{}{suffix}", file.path));
            fs::write(&path, bytes).with_context(|| format!("can't write {}", path.display()))?;
            written.insert(path);
        }
    }
    for folder in [dist.to_owned(), dist.join("assets")] {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("can't list {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_file() && !written.contains(&path) {
                fs::remove_file(&path)
                    .with_context(|| format!("can't remove {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// The first 64 bits of the content's SHA-256, in hex: enough to tell versions of one file apart.
fn fingerprint(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..8])
}

/// `bytes` in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

/// Puts each value, as an absolute path, where the template has its `{{name}}`.
fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let filled = values
        .iter()
        .try_fold(template.to_owned(), |text, (name, path)| {
            let mark = format!("{{{{{name}}}}}");
            ensure!(text.contains(&mark), "a template lacks {mark}");
            Ok(text.replace(&mark, &format!("/{path}")))
        })?;
    ensure!(
        !filled.contains("{{"),
        "a template has a mark that nothing fills"
    );
    Ok(filled)
}

/// Drops comments and the space at the ends of lines. The rest is left to the compression.
fn shorten_css(css: &str) -> String {
    let mut rest = css;
    let mut kept = String::with_capacity(css.len());
    while let Some((before, comment)) = rest.split_once("/*") {
        kept.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_whole() {
        assert_eq!(
            fill("<a href={{x}}>{{x}}", &[("x", "assets/a.js")]).unwrap(),
            "<a href=/assets/a.js>/assets/a.js"
        );
        assert!(fill("nothing here", &[("x", "a")]).is_err());
        assert!(fill("{{x}} {{y}}", &[("x", "a")]).is_err());
    }

    #[test]
    fn names_follow_content() {
        let name = |bytes: &str| File::fingerprinted("page", "css", bytes.into()).path;
        assert_eq!(name("abc"), "assets/page-ba7816bf8f01cfea.css");
        assert_ne!(name("abc"), name("abd"));
    }

    #[test]
    fn css_loses_only_what_says_nothing() {
        assert_eq!(
            shorten_css("/* why */\na {\n  color: red; /* x */\n}\n\n"),
            "a {\ncolor: red;\n}\n"
        );
        assert_eq!(shorten_css("a{} /* open"), "a{}\n");
    }
}
