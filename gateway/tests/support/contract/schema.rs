//! JSON held against the schemas that the document uses, and against nothing more: an unknown keyword
//! is a failure. It is stricter than JSON Schema in one thing: a field must be named by some schema.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::DOCUMENT;

/// The names of the fields that a schema knows.
type Names = BTreeSet<String>;

/// What tells people something, and what is no rule.
const WORDS: [&str; 7] = [
    "description",
    "example",
    "examples",
    "default",
    "format",
    "title",
    "discriminator",
];

/// The schema with that name.
pub fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// `value`, or what it refers to.
pub fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(place) => at(place),
        None => value,
    }
}

fn at(place: &str) -> &'static Value {
    let pointer = place.trim_start_matches('#');
    DOCUMENT
        .pointer(pointer)
        .unwrap_or_else(|| panic!("the document has no {place}"))
}

/// Whether `value` is as `schema` says, and has no field that it doesn't name.
pub fn check(schema: &Value, value: &Value) -> Result<(), String> {
    let names = names(schema, value)?;
    let unnamed = value
        .as_object()
        .and_then(|fields| fields.keys().find(|field| !names.contains(*field)));
    match unnamed {
        Some(field) => Err(format!("the field {field} is not documented")),
        None => Ok(()),
    }
}

/// The fields that `schema` names, if `value` is as it says.
fn names(schema: &Value, value: &Value) -> Result<Names, String> {
    let mut names = Names::new();
    for (keyword, rule) in schema.as_object().into_iter().flatten() {
        match keyword.as_str() {
            "$ref" => names.extend(self::names(at(rule.as_str().unwrap()), value)?),
            "allOf" => {
                for part in rule.as_array().unwrap() {
                    names.extend(self::names(part, value)?);
                }
            }
            "anyOf" | "oneOf" => names.extend(some_of(keyword, rule, value)?),
            "properties" => names.extend(properties(rule.as_object().unwrap(), value)?),
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(rule, item)?;
                }
            }
            word if WORDS.contains(&word) => {}
            _ => is_kept(keyword, rule, value)?,
        }
    }
    Ok(names)
}

fn some_of(keyword: &str, rule: &Value, value: &Value) -> Result<Names, String> {
    let tried = rule.as_array().unwrap().iter();
    let tried: Vec<_> = tried.map(|part| names(part, value)).collect();
    let fitting = tried.iter().filter(|part| part.is_ok()).count();
    if fitting == 0 || (keyword == "oneOf" && fitting > 1) {
        let problems: Vec<_> = tried.into_iter().filter_map(Result::err).collect();
        return Err(format!(
            "{fitting} of {keyword} fit {value}: {}",
            problems.join("; ")
        ));
    }
    Ok(tried.into_iter().flatten().flatten().collect())
}

fn properties(rule: &Map<String, Value>, value: &Value) -> Result<Names, String> {
    for (field, schema) in rule {
        if let Some(inner) = value.get(field) {
            check(schema, inner).map_err(|problem| format!("{field}: {problem}"))?;
        }
    }
    Ok(rule.keys().cloned().collect())
}

/// Whether `value` keeps a rule that names no field.
fn is_kept(keyword: &str, rule: &Value, value: &Value) -> Result<(), String> {
    let length = || value.as_str().map(|text| text.chars().count() as u64);
    let is_kept = match keyword {
        "type" => match rule {
            Value::Array(types) => types.iter().any(|name| has_type(name, value)),
            name => has_type(name, value),
        },
        "enum" => rule.as_array().unwrap().contains(value),
        "required" => rule
            .as_array()
            .unwrap()
            .iter()
            .all(|field| value.get(field.as_str().unwrap()).is_some()),
        "minimum" => value.as_i64() >= rule.as_i64(),
        "maximum" => value.as_i64() <= rule.as_i64(),
        "minLength" => length() >= rule.as_u64(),
        "maxLength" => length() <= rule.as_u64(),
        unknown => panic!("this checker knows no {unknown}"),
    };
    if is_kept {
        Ok(())
    } else {
        Err(format!("{value} is against {keyword}: {rule}"))
    }
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        unknown => panic!("this checker knows no {unknown}"),
    }
}
