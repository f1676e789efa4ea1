//! How a live session looks in the replies that it is flattened into.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr,
        schema::{AnyOfBuilder, ObjectBuilder, Schema, Type},
    },
};

use crate::session::ActiveSession;

/// The fields of a live session, or none of them: what `Option<ActiveSession>` is where it is
/// flattened into another body.
pub enum SessionIfAny {}

impl PartialSchema for SessionIfAny {
    fn schema() -> RefOr<Schema> {
        let without = ObjectBuilder::new()
            .schema_type(Type::Object)
            .title(Some("NoSession"))
            .description(Some("Without a live session there is none of its fields."));
        let either = AnyOfBuilder::new()
            .item(Ref::from_schema_name("ActiveSession"))
            .item(without)
            .description(Some("The live session's fields, if there is one."));
        Schema::AnyOf(either.build()).into()
    }
}

impl ToSchema for SessionIfAny {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((ActiveSession::name().into(), ActiveSession::schema()));
        ActiveSession::schemas(schemas);
    }
}
