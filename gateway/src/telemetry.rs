//! Traces for an OpenTelemetry collector: a span for each request, with the engine's call and the
//! journal's batch beneath.
//!
//! They are the spans that the log has too, taken by a layer of their own. What goes out is a span's
//! name, its times and its fields: no line of the log, and nothing that the log may not have. Spans
//! are sent in batches by a thread of the library's. A collector that is slow or dead costs the spans
//! that find no room in the queue, and a line in the log now and then.

mod exporter;

use std::{error::Error, time::Duration};

use hyper::{HeaderMap, StatusCode, header::HeaderName};
use opentelemetry::{
    KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Status, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::FilterFn, registry::LookupSpan};

use self::exporter::Exporter;
use crate::settings::TelemetrySettings;

/// How many spans may wait to be sent.
const QUEUE_MAX: usize = 8_192;
/// How many are sent at once.
const BATCH_MAX: usize = 512;
/// How long the first of a batch waits for others.
const BATCH_AFTER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sending the last spans may take when the program ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(6);

/// The name that the spans' producer has among others'.
const SERVICE: &str = "minute-credit";

/// The traces can't be sent anywhere.
#[derive(Debug, thiserror::Error)]
#[error("traces can't be exported")]
pub struct TelemetryError(#[source] Box<dyn Error + Send + Sync>);

/// Takes spans until it is shut down.
pub struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// Telemetry as the settings have it: none without an endpoint.
    pub fn start(settings: &TelemetrySettings) -> Result<Option<Self>, TelemetryError> {
        let Some(endpoint) = &settings.otlp_endpoint else {
            return Ok(None);
        };
        let failed = |error: Box<dyn Error + Send + Sync>| TelemetryError(error);
        let client = Exporter::new(EXPORT_TIMEOUT).map_err(|error| failed(error.into()))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_timeout(EXPORT_TIMEOUT)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .build()
            .map_err(|error| failed(error.into()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(BATCH_AFTER)
            .build();
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let resource = Resource::builder_empty()
            .with_service_name(SERVICE)
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", settings.node.clone()),
            ])
            .build();
        let share = f64::from(settings.sample_percent) / 100.0;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        Ok(Some(Self { provider }))
    }

    /// What takes our spans, and nothing but spans.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let is_ours = FilterFn::new(|metadata| {
            metadata.is_span() && ["gateway", "engine"].contains(&crate_of(metadata.target()))
        });
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(is_ours)
    }

    /// Sends what is still to be sent. It blocks for that.
    pub fn shut_down(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Makes `span` a part of the trace that the `traceparent` among `headers` names, if there is one.
pub fn join_trace(span: &Span, headers: &HeaderMap) {
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    // Without telemetry there is no trace to join.
    let _ = span.set_parent(context);
}

/// Tells in `span`, a request's, how it was answered, and by what.
pub fn tell_answer(span: &Span, route: &'static str, status: StatusCode) {
    span.set_attribute("route", route);
    span.set_attribute("status", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
}

/// Headers as the library reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// The crate that a target, a module's path, belongs to.
fn crate_of(target: &str) -> &str {
    target.split("::").next().unwrap_or_default()
}
