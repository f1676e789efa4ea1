//! How a page looks: on narrow and wide screens, light and dark, in the system's own colours and with wide
//! text. In each of these nothing may stick out or be cut off, and axe-core may find no barrier.
//!
//! With `SCREENSHOTS` set to a folder, a picture of each state in each look is left there.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::{Value, json};

use crate::page::Page;

/// A screen and how its user reads.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of a browser"
)]
struct Look {
    name: &'static str,
    width: u16,
    is_dark: bool,
    is_forced: bool,
    is_spaced: bool,
    is_for_axe: bool,
}

const fn look(name: &'static str, width: u16) -> Look {
    Look {
        name,
        width,
        is_dark: false,
        is_forced: false,
        is_spaced: false,
        is_for_axe: false,
    }
}

const LOOKS: [Look; 10] = [
    Look {
        is_for_axe: true,
        ..look("desktop-light", 1280)
    },
    Look {
        is_dark: true,
        is_for_axe: true,
        ..look("desktop-dark", 1280)
    },
    look("phone-light", 390),
    Look {
        is_dark: true,
        ..look("phone-dark", 390)
    },
    look("narrow-360", 360),
    Look {
        is_for_axe: true,
        ..look("narrow-light", 320)
    },
    Look {
        is_dark: true,
        is_for_axe: true,
        ..look("narrow-dark", 320)
    },
    Look {
        is_forced: true,
        ..look("forced-colours", 390)
    },
    Look {
        is_spaced: true,
        ..look("spaced-narrow", 320)
    },
    Look {
        is_spaced: true,
        ..look("spaced-desktop", 1280)
    },
];

/// axe-core, as `scripts/axe` gets it.
static AXE: LazyLock<String> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(root.join("scripts/axe")).output().unwrap();
    assert!(output.status.success(), "scripts/axe fails");
    let path = String::from_utf8(output.stdout).unwrap();
    std::fs::read_to_string(path.trim()).unwrap()
});

const RUN_AXE: &str = r"
    const done = arguments[arguments.length - 1];
    axe.run(document, { resultTypes: ['violations'] }).then(
        (found) => done(found.violations.flatMap((rule) => rule.nodes.map((node) =>
            `${rule.id}: ${node.target.join(' ')}: ${node.failureSummary} in ${node.html}`))),
        (error) => done([String(error)]),
    );
";

/// Text as WCAG 1.4.12 lets a reader set it.
const SPACE_TEXT: &str = r"
    window.spacing ??= new CSSStyleSheet();
    window.spacing.replaceSync(arguments[0]
        ? '* { line-height: 1.5 !important; letter-spacing: .12em !important; word-spacing: .16em !important } p { margin-block-end: 2em !important }'
        : '');
    document.adoptedStyleSheets = [window.spacing];
";

/// What is wider than the screen, or than the box that it is in. A field scrolls by itself, and a long email is
/// cut with a mark and has a title.
const FIND_OVERFLOW: &str = r"
    const width = document.documentElement.clientWidth;
    const found = [];
    if (document.scrollingElement.scrollWidth > width) found.push(`the page is ${document.scrollingElement.scrollWidth} wide`);
    for (const element of document.body.querySelectorAll('*')) {
        if (!(element instanceof HTMLElement) || element.closest('.unseen, input, .email, [hidden], noscript')) continue;
        const box = element.getBoundingClientRect();
        if (!box.width) continue;
        const name = `${element.tagName}.${element.className} ${element.textContent.slice(0, 40)}`;
        if (box.left < -1 || box.right > width + 1) found.push(`${name} reaches from ${box.left} to ${box.right} of ${width}`);
        const inline = getComputedStyle(element).display === 'inline';
        if (!inline && element.scrollWidth > element.clientWidth + 1 && element.clientWidth)
            found.push(`${name}: ${element.scrollWidth} in ${element.clientWidth}`);
    }
    return found;
";

/// Looks at the page in `state` in every way. Before each look `hold` sees to it that it is in that state.
pub(crate) async fn check(page: &Page, state: &str, mut hold: impl AsyncFnMut()) {
    let pictures = std::env::var_os("SCREENSHOTS").map(PathBuf::from);
    let mut found = Vec::new();
    for look in &LOOKS {
        hold().await;
        emulate(page, look).await;
        let overflow = page.run(FIND_OVERFLOW, Vec::new()).await;
        let mut wrong = sentences(&overflow);
        if look.is_for_axe {
            page.run(&AXE, Vec::new()).await;
            wrong.extend(sentences(&page.run_async(RUN_AXE).await));
        }
        found.extend(
            wrong
                .into_iter()
                .map(|what| format!("{}: {what}", look.name)),
        );
        if let Some(folder) = &pictures {
            let picture = folder.join(format!("{state}-{}.png", look.name));
            std::fs::write(picture, page.screenshot().await).unwrap();
        }
    }
    emulate(page, &look("as it was", 1280)).await;
    assert!(found.is_empty(), "{state}:\n{}", found.join("\n"));
}

async fn emulate(page: &Page, look: &Look) {
    let screen =
        json!({ "width": look.width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
    page.devtools("Emulation.setDeviceMetricsOverride", screen)
        .await;
    let scheme = if look.is_dark { "dark" } else { "light" };
    let forced = if look.is_forced { "active" } else { "none" };
    // What moves is between two states, and neither.
    let media = json!({ "features": [
        { "name": "prefers-color-scheme", "value": scheme },
        { "name": "forced-colors", "value": forced },
        { "name": "prefers-reduced-motion", "value": "reduce" },
    ]});
    page.devtools("Emulation.setEmulatedMedia", media).await;
    page.run(SPACE_TEXT, vec![json!(look.is_spaced)]).await;
}

fn sentences(found: &Value) -> Vec<String> {
    let found = found.as_array().expect("a list");
    found
        .iter()
        .map(|what| what.as_str().unwrap_or_default().to_owned())
        .collect()
}
