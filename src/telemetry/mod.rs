//! Logs and traces: set up once, as the process starts. The metrics are in [`metrics`].
//!
//! Logs go to stderr, so that stdout stays free for what a command makes. What to log, and where traces go, is the
//! configuration's to say.

pub mod metrics;
mod probe;

pub use metrics::Metrics;

use axum::http::HeaderMap;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Bytes past which this process is killed: the cgroup's limit, else the machine's memory.
pub fn memory_limit() -> Option<u64> {
    probe::Probe::new().memory_limit()
}

/// Why logs and traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the log filter is wrong: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("the exporter of traces can't be built: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("a log is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// What is to be given back at the end of the process.
#[must_use = "traces that are not flushed are lost"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Sets up the process's log (JSON, a line an event, or text) with `filter`, W3C trace context, and, where an endpoint
/// is given, the export of traces to it as OTLP over HTTP.
pub fn init(json: bool, filter: &str, otlp_endpoint: Option<&str>) -> Result<Telemetry, Error> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let traces = otlp_endpoint.map(trace_provider).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        let tracer = provider.tracer("segmill");
        tracing_opentelemetry::layer().with_tracer(tracer)
    });
    // The library's own events are for its makers; `filter` can ask for them again.
    let filter =
        EnvFilter::try_new(format!("opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry-otlp=warn,{filter}"))?;
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = if json { log.json().flatten_event(true).boxed() } else { log.boxed() };
    tracing_subscriber::registry().with(filter).with(spans).with(log).try_init()?;
    Ok(Telemetry { traces })
}

fn trace_provider(endpoint: &str) -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_headers(Default::default())
        .build()?;
    let resource = Resource::builder().with_service_name("segmill").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Telemetry {
    /// Sends what traces are left. Blocks for up to a few seconds: not to be called from an async task.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.traces.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "traces were lost at shutdown");
        }
    }
}

/// The trace that a request belongs to, as its `traceparent` header says (W3C Trace Context); empty without one.
pub fn parent_of(headers: &HeaderMap) -> opentelemetry::Context {
    opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt;

    use super::*;

    #[test]
    fn a_request_joins_the_trace_of_its_traceparent() {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let mut headers = HeaderMap::new();
        assert!(!parent_of(&headers).span().span_context().is_valid());
        let value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", value.parse().unwrap());
        let parent = parent_of(&headers);
        assert_eq!(parent.span().span_context().trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.span().span_context().is_sampled());
    }
}
