//! One call of the API as data, and how it reads as an operation.

use utoipa::{
    ToSchema,
    openapi::{
        Content, HttpMethod, Ref, RefOr, Required, Response, ResponseBuilder,
        path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::Schema,
        security::SecurityRequirement,
    },
};

use super::failures::{self, Answer, header};
use crate::ErrorCode;

/// Schemas by name, as the document needs them.
pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// A method at an address: what it takes, and everything that it can answer.
pub(super) struct Call {
    pub(super) method: HttpMethod,
    pub(super) path: &'static str,
    /// The schemas that its bodies are made of.
    pub(super) schemas: Schemas,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Vec<RefOr<Parameter>>,
    body: Option<RequestBody>,
    securities: Vec<SecurityRequirement>,
    successes: Vec<(u16, Response)>,
    failures: Vec<ErrorCode>,
}

impl Call {
    /// The call `id`, which reads.
    pub(super) const fn get(path: &'static str, id: &'static str) -> Self {
        Self::new(HttpMethod::Get, path, id)
    }

    /// The call `id`, which changes something.
    pub(super) const fn post(path: &'static str, id: &'static str) -> Self {
        Self::new(HttpMethod::Post, path, id)
    }

    const fn new(method: HttpMethod, path: &'static str, id: &'static str) -> Self {
        Self {
            method,
            path,
            schemas: Vec::new(),
            id,
            tag: "",
            summary: "",
            description: "",
            parameters: Vec::new(),
            body: None,
            securities: Vec::new(),
            successes: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Its part of the API, and what it does: in a line, and in full.
    pub(super) fn says(
        self,
        tag: &'static str,
        summary: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            tag,
            summary,
            description,
            ..self
        }
    }

    /// It belongs to a user: the token tells whose it is.
    pub(super) fn with_token(mut self) -> Self {
        self.securities.push(security("bearer"));
        self.refuses(&[ErrorCode::TokenRequired, ErrorCode::InvalidToken])
    }

    /// The security schemes of which any lets a caller in, without an answer of HTTP if none does.
    pub(super) fn with_any_of(mut self, schemes: &[&str]) -> Self {
        self.securities
            .extend(schemes.iter().map(|scheme| security(scheme)));
        self
    }

    /// It takes a parameter that is described with others' (`#/components/parameters`).
    pub(super) fn takes_common(mut self, name: &str) -> Self {
        let place = format!("#/components/parameters/{name}");
        self.parameters.push(RefOr::Ref(Ref::new(place)));
        self
    }

    /// It takes a parameter.
    pub(super) fn takes(mut self, parameter: Parameter) -> Self {
        self.parameters.push(RefOr::T(parameter));
        self
    }

    /// It takes a body with fields.
    pub(super) fn takes_body<T: ToSchema>(mut self, description: &str) -> Self {
        self.body = Some(body::<T>(description, Required::True));
        self.knows::<T>()
            .refuses(&BODY_REFUSALS)
            .refuses(&[ErrorCode::InvalidField])
    }

    /// It takes a body that may be absent.
    pub(super) fn may_take_body<T: ToSchema>(mut self, description: &str) -> Self {
        self.body = Some(body::<T>(description, Required::False));
        self.knows::<T>().refuses(&BODY_REFUSALS)
    }

    /// It answers `status` with a `T` in JSON.
    pub(super) fn answers<T: ToSchema>(mut self, status: u16, description: &str) -> Self {
        let content = Content::new(Some(Ref::from_schema_name(T::name())));
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/json", content)
            .header_ref("X-Request-Id", header("X-Request-Id"))
            .build();
        self.successes.push((status, response));
        self.knows::<T>()
    }

    /// It answers `status` in another way.
    pub(super) fn answers_with(mut self, status: u16, response: ResponseBuilder) -> Self {
        let response = response.header_ref("X-Request-Id", header("X-Request-Id"));
        self.successes.push((status, response.build()));
        self
    }

    /// It may fail so, besides what follows from what it takes.
    pub(super) fn refuses(mut self, codes: &[ErrorCode]) -> Self {
        self.failures.extend(codes);
        self
    }

    /// The document needs the schema of `T`.
    pub(super) fn knows<T: ToSchema>(mut self) -> Self {
        self.schemas.push((T::name().into(), T::schema()));
        T::schemas(&mut self.schemas);
        self
    }

    /// All answers that tell a failure.
    pub(super) fn failures(&self) -> Vec<Answer> {
        let mut codes = self.failures.clone();
        if self.path.starts_with("/api/") {
            codes.push(ErrorCode::OriginNotAllowed);
        }
        failures::answers(&codes)
    }

    /// The call as an operation.
    pub(super) fn operation(self) -> Operation {
        let failures = self.failures();
        let mut operation = OperationBuilder::new()
            .operation_id(Some(self.id))
            .tag(self.tag)
            .summary(Some(self.summary))
            .description(Some(self.description).filter(|text| !text.is_empty()))
            .request_body(self.body)
            // None at all means that anybody may call it.
            .securities(Some(self.securities));
        for parameter in self.parameters {
            operation = match parameter {
                RefOr::Ref(place) => operation.parameter_ref(place),
                RefOr::T(parameter) => operation.parameter(parameter),
            };
        }
        for (status, response) in self.successes {
            operation = operation.response(status.to_string(), response);
        }
        for failure in failures {
            let place = Ref::from_response_name(failure.name);
            operation = operation.response(failure.status.to_string(), place);
        }
        operation.build()
    }
}

/// What is answered to bodies that can't be read.
const BODY_REFUSALS: [ErrorCode; 5] = [
    ErrorCode::InvalidJson,
    ErrorCode::InvalidRequest,
    ErrorCode::RequestTimeout,
    ErrorCode::BodyTooLarge,
    ErrorCode::UnsupportedMediaType,
];

fn body<T: ToSchema>(description: &str, required: Required) -> RequestBody {
    let content = Content::new(Some(Ref::from_schema_name(T::name())));
    RequestBodyBuilder::new()
        .description(Some(description))
        .required(Some(required))
        .content("application/json", content)
        .build()
}

fn security(scheme: &str) -> SecurityRequirement {
    SecurityRequirement::new(scheme, Vec::<String>::new())
}

/// A parameter in the query that may be absent.
pub(super) fn in_query(
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> Parameter {
    parameter(ParameterIn::Query, name, description, schema).build()
}

/// A parameter that stands `place`, not required unless it is part of the path.
pub(super) fn parameter(
    place: ParameterIn,
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> ParameterBuilder {
    let required = match place {
        ParameterIn::Path => Required::True,
        _ => Required::False,
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(description))
        .schema(Some(schema))
}
