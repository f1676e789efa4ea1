//! Makes plain objects of the schemas that serde's flattening composes.
//!
//! A field that is flattened becomes `allOf`, and an optional one `allOf` with alternatives in it. That
//! is right, and no generator of clients reads it: each either makes every field required or drops the
//! schema. So the parts are put together here: what a reply may have stands in one object, and what it
//! always has is required.

use std::collections::BTreeMap;

use utoipa::openapi::{
    Components, Ref, RefOr,
    schema::{Discriminator, Object, OneOfBuilder, Schema},
};

/// The schema of the messages of a stream, each of which becomes a schema of its own.
const MESSAGES: &str = "StreamMessage";
/// The field that tells messages apart.
const TAG: &str = "type";
/// Schemas that are only parts of others.
const PARTS: [&str; 5] = [
    "ActiveSession",
    "CreditUpdate",
    "ServerMessage",
    "SessionIfAny",
    "StreamPosition",
];

/// Replaces every composed schema by a plain object, or by a choice of plain objects.
pub(super) fn make_plain(components: &mut Components) {
    let composed = components.schemas.clone();
    let find = |schema: &RefOr<Schema>| resolve(&composed, schema);
    for (name, schema) in &composed {
        if let RefOr::T(Schema::AllOf(all)) = schema {
            let mut alternatives = alternatives(&find, schema);
            for object in &mut alternatives {
                object.description.clone_from(&all.description);
            }
            if name == MESSAGES {
                let choice = choose(components, alternatives, all.description.clone());
                components.schemas.insert(name.clone(), choice);
            } else if let [object] = alternatives.as_slice() {
                let object = Schema::Object(object.clone());
                components.schemas.insert(name.clone(), object.into());
            }
        }
    }
    for part in PARTS {
        components.schemas.remove(part);
    }
}

fn resolve(schemas: &BTreeMap<String, RefOr<Schema>>, schema: &RefOr<Schema>) -> Option<Schema> {
    match schema {
        RefOr::T(schema) => Some(schema.clone()),
        RefOr::Ref(place) => {
            let name = place.ref_location.rsplit('/').next()?;
            resolve(schemas, schemas.get(name)?)
        }
    }
}

/// The objects that a value of `schema` may be.
fn alternatives(
    find: &impl Fn(&RefOr<Schema>) -> Option<Schema>,
    schema: &RefOr<Schema>,
) -> Vec<Object> {
    match find(schema) {
        Some(Schema::Object(object)) => vec![object],
        Some(Schema::OneOf(one)) => {
            let items = one.items.iter();
            items.flat_map(|item| alternatives(find, item)).collect()
        }
        // The fields that are in one alternative and not in the other are there or not.
        Some(Schema::AnyOf(any)) => {
            let mut all = Object::new();
            for item in &any.items {
                for object in alternatives(find, item) {
                    all.properties.extend(object.properties);
                }
            }
            vec![all]
        }
        Some(Schema::AllOf(all)) => {
            let mut together = vec![Object::new()];
            for item in &all.items {
                let parts = alternatives(find, item);
                together = together
                    .iter()
                    .flat_map(|object| parts.iter().map(|part| joined(object, part)))
                    .collect();
            }
            together
        }
        _ => Vec::new(),
    }
}

/// An object with the fields of both.
fn joined(one: &Object, other: &Object) -> Object {
    let mut object = one.clone();
    object.properties.extend(other.properties.clone());
    object.required.extend(other.required.clone());
    object
}

/// A choice of `messages`, which become schemas of their own, named for their type.
fn choose(
    components: &mut Components,
    messages: Vec<Object>,
    description: Option<String>,
) -> RefOr<Schema> {
    let mut choice = OneOfBuilder::new().description(description);
    let mut discriminator = Discriminator::new(TAG);
    for message in messages {
        let Some(tag) = tag(&message) else { continue };
        let name = name_of(&tag);
        let place = format!("#/components/schemas/{name}");
        choice = choice.item(Ref::new(place.clone()));
        discriminator.mapping.insert(tag, place);
        components
            .schemas
            .insert(name, Schema::Object(message).into());
    }
    Schema::OneOf(choice.discriminator(Some(discriminator)).build()).into()
}

/// The one value that the tag of `message` may have.
fn tag(message: &Object) -> Option<String> {
    let RefOr::T(Schema::Object(tag)) = message.properties.get(TAG)? else {
        return None;
    };
    Some(tag.enum_values.as_ref()?.first()?.as_str()?.to_owned())
}

/// The name of the schema of the messages with that tag: `BalanceLowMessage` for `balance_low`.
fn name_of(tag: &str) -> String {
    let words = tag.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    });
    words.collect::<String>() + "Message"
}
