//! How the newtypes look in JSON: whole numbers with bounds, each under its own name.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type},
    },
};

use crate::{
    Credits, CreditsChange, EntryId, MAX_SAFE_INTEGER, Millis, SessionId, UnixMillis, UserId,
};

/// Describes whole numbers from a least one up to 2^53 − 1.
macro_rules! whole_numbers {
    ($($type:ident from $min:expr, such as $example:literal: $what:literal;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                whole_number($min, $example, $what).into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                stringify!($type).into()
            }
        }
    )*};
}

whole_numbers! {
    Credits from 0, such as 95: "An amount of whole credits.";
    CreditsChange from -MAX_SAFE_INTEGER, such as -5:
        "A movement of whole credits as the wallet sees it; negative where credits went out.";
    EntryId from 1, such as 17: "The id of an entry of the ledger.";
    Millis from 0, such as 6000: "A length of time in milliseconds.";
    SessionId from 1, such as 345: "The id of a session.";
    UnixMillis from 0, such as 1_795_334_400_000_i64: "An instant: milliseconds since 1970-01-01T00:00:00Z.";
    UserId from 1, such as 7: "The id of a user.";
}

fn whole_number(min: i64, example: i64, what: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(min))
        .maximum(Some(MAX_SAFE_INTEGER))
        .description(Some(what))
        .examples([example])
        .build()
}
