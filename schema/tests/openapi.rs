//! The committed description of the API is the one that the types make.

use std::{env, fs, path::Path};

#[test]
fn the_committed_document_is_what_the_types_make() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let made = schema::openapi::text().unwrap();
    if env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "schema/openapi.json is out of date; this rewrites it:\n    \
         UPDATE_OPENAPI=1 cargo test --package schema --test openapi"
    );
}
