//! Sends calls over HTTP.

use wasm_bindgen::{JsCast as _, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, RequestInit, Response};

use crate::api::{Answer, Call, Failure, Token};

/// Sends `call` with `token` and reads the answer.
pub async fn send(call: &Call, token: Option<&Token>) -> Result<Answer, Failure> {
    let (status, retry_after, body) = exchange(call, token)
        .await
        .map_err(|error| failure(&error))?;
    call.read(status, retry_after.as_deref(), &body)
}

async fn exchange(
    call: &Call,
    token: Option<&Token>,
) -> Result<(u16, Option<String>, String), JsValue> {
    let request = call.to_http();
    let headers = Headers::new()?;
    if let Some(token) = token {
        headers.set("Authorization", &format!("Bearer {}", token.as_str()))?;
    }
    if let Some(key) = &request.idempotency_key {
        headers.set("Idempotency-Key", key)?;
    }
    if request.body.is_some() {
        headers.set("Content-Type", "application/json")?;
    }
    let init = RequestInit::new();
    init.set_method(request.method);
    init.set_headers(&headers);
    init.set_signal(Some(&AbortSignal::timeout_with_u32(
        call.answer_within_ms(),
    )));
    if let Some(body) = request.body {
        init.set_body(&body.into());
    }

    let window = super::window().ok_or(JsValue::NULL)?;
    let response: Response = JsFuture::from(window.fetch_with_str_and_init(&request.path, &init))
        .await?
        .dyn_into()?;
    let retry_after = response.headers().get("Retry-After")?;
    let body = JsFuture::from(response.text()?)
        .await?
        .as_string()
        .unwrap_or_default();
    Ok((response.status(), retry_after, body))
}

fn failure(error: &JsValue) -> Failure {
    let name = js_sys::Reflect::get(error, &"name".into())
        .ok()
        .and_then(|name| name.as_string());
    if name.as_deref() == Some("TimeoutError") {
        Failure::TimedOut
    } else {
        Failure::NoConnection
    }
}
