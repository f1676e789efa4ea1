//! Where settings come from: the compiled-in defaults, a file, the environment, the command's options.

use std::{collections::BTreeMap, fs, path::Path};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    util::nest,
    value::{Dict, Map, Value},
};

use super::{Options, SettingsError};

/// Every key with its default and a comment.
pub const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// What a variable of ours begins with.
const PREFIX: &str = "MINUTE_CREDIT__";

/// What some editors write at the beginning of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The variables that people expect, and the keys that they set.
const WELL_KNOWN: [(&str, &str); 4] = [
    ("PORT", "http.port"),
    ("DATA_DIR", "data.dir"),
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
];

/// Some settings with the name of their source, for error messages.
struct Layer {
    name: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// All layers, the later ones winning. Fails on a key that has no default, since nobody reads it.
pub(super) fn merged(
    file: Option<&Path>,
    environment: &BTreeMap<String, String>,
    options: &Options,
) -> Result<Figment, SettingsError> {
    let defaults = parse_toml(DEFAULTS, "the defaults")?;
    let known = leaves(&defaults);
    let mut layers = Vec::new();
    if let Some(path) = file {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let name = format!("the file {}", path.display());
        layers.push(Layer {
            // Some editors begin a file with a mark of its encoding.
            dict: parse_toml(text.trim_start_matches(BYTE_ORDER_MARK), &name)?,
            name,
        });
    }
    layers.extend(variables(environment, &known));
    layers.extend(given(options));

    let mut figment = Figment::from(Layer {
        name: "the defaults".to_owned(),
        dict: defaults,
    });
    for layer in layers {
        if let Some((key, _)) = leaves(&layer.dict)
            .into_iter()
            .find(|(key, value)| !is_known(key, value, &known))
        {
            return Err(SettingsError::Unknown {
                nearest: nearest(&key, &known),
                key,
                origin: layer.name,
            });
        }
        figment = figment.merge(layer);
    }
    Ok(figment)
}

/// Whether a variable of this name is a setting.
pub(super) fn is_ours(variable: &str) -> bool {
    variable.starts_with(PREFIX) || WELL_KNOWN.iter().any(|(name, _)| *name == variable)
}

/// `text` without what scripts, editors and secret stores leave around it.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK)
}

/// One layer for each option that was given.
fn given(options: &Options) -> impl Iterator<Item = Layer> {
    let options = [
        (
            "--host",
            "http.host",
            options.host.as_deref().map(Value::from),
        ),
        (
            "--port",
            "http.port",
            options.port.as_deref().map(parse_value),
        ),
    ];
    options.into_iter().filter_map(|(option, key, value)| {
        Some(Layer {
            name: format!("the option {option}"),
            dict: nest(key, value?).into_dict().unwrap_or_default(),
        })
    })
}

/// One layer for each variable that is ours and not empty. White space around a value is not part of it.
fn variables(
    environment: &BTreeMap<String, String>,
    known: &BTreeMap<String, Value>,
) -> Vec<Layer> {
    let prefixed = environment.iter().filter_map(|(variable, text)| {
        let key = variable
            .strip_prefix(PREFIX)?
            .to_ascii_lowercase()
            .replace("__", ".");
        Some((variable.as_str(), key, text))
    });
    let well_known = WELL_KNOWN
        .into_iter()
        .filter_map(|(variable, key)| Some((variable, key.to_owned(), environment.get(variable)?)));
    prefixed
        .chain(well_known)
        .map(|(variable, key, text)| (variable, key, trimmed(text)))
        .filter(|(_, _, text)| !text.is_empty())
        .map(|(variable, key, text)| {
            // A number is a fine node name: what is text by default is text here.
            let is_text = matches!(known.get(&key), Some(Value::String(..)));
            let value = if is_text {
                Value::from(text)
            } else {
                parse_value(text)
            };
            let dict = nest(&key, value).into_dict().unwrap_or_default();
            Layer {
                name: format!("the environment variable {variable}"),
                dict,
            }
        })
        .collect()
}

/// A number, a list or, where it is neither, a text.
fn parse_value(text: &str) -> Value {
    text.parse()
        .unwrap_or_else(|never: std::convert::Infallible| match never {})
}

fn parse_toml(text: &str, name: &str) -> Result<Dict, SettingsError> {
    let mut data = Toml::string(text)
        .data()
        .map_err(|error| SettingsError::Malformed {
            origin: name.to_owned(),
            problem: without_excerpt(&error.to_string()),
        })?;
    Ok(data.remove(&Profile::Default).unwrap_or_default())
}

/// What a parser says, without the lines that it quotes: there may be a password in them.
fn without_excerpt(message: &str) -> String {
    let is_excerpt = |line: &str| {
        let (margin, has_bar) = line
            .split_once('|')
            .map_or((line, false), |(margin, _)| (margin, true));
        has_bar && margin.chars().all(|c| c.is_ascii_digit() || c == ' ')
    };
    let told: Vec<&str> = message.lines().filter(|line| !is_excerpt(line)).collect();
    told.join(" ")
}

/// The dotted names of all values that are not tables. A table without any counts by its own name.
fn leaves(dict: &Dict) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (key, value) in dict {
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => {
                found.extend(
                    leaves(inner)
                        .into_iter()
                        .map(|(rest, leaf)| (format!("{key}.{rest}"), leaf)),
                );
            }
            leaf => {
                found.insert(key.clone(), leaf.clone());
            }
        }
    }
    found
}

/// Whether `key` has a default, or is an empty table of a section that there is.
fn is_known(key: &str, value: &Value, known: &BTreeMap<String, Value>) -> bool {
    let is_empty_section = || {
        value.as_dict().is_some()
            && known
                .keys()
                .any(|known| known.starts_with(&format!("{key}.")))
    };
    known.contains_key(key) || is_empty_section()
}

/// What somebody who wrote `key` probably meant: a key of the same section or of the same name.
fn nearest(key: &str, known: &BTreeMap<String, Value>) -> String {
    let (section, name) = key.rsplit_once('.').unwrap_or((key, key));
    let namesakes = known
        .keys()
        .filter(|known| known.ends_with(&format!(".{name}")));
    let siblings = known
        .keys()
        .filter(|known| known.starts_with(&format!("{section}.")));
    let mut near: Vec<_> = namesakes.chain(siblings).map(String::as_str).collect();
    near.dedup();
    match near.as_slice() {
        [] => "see config/default.toml for all keys".to_owned(),
        near => format!("perhaps one of {}", near.join(", ")),
    }
}

/// All keys there are.
#[cfg(test)]
pub(super) fn known_keys() -> Vec<String> {
    leaves(&parse_toml(DEFAULTS, "the defaults").unwrap())
        .into_keys()
        .collect()
}
