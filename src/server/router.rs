//! The public port's routes.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Json, middleware};
use serde_json::{Value, json};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::app::App;
use super::auth;
use super::problem::Problem;
use super::{contract, segments, stream, transcode};
use crate::telemetry;

/// The routes of PROTOCOL version 1.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/stream", any(stream::upgrade))
        .route("/v1/segments", post(segments::segments).put(segments::segments))
        .route("/v1/transcode", post(transcode::transcode).put(transcode::transcode))
        .route("/v1/capabilities", get(capabilities))
        .route_layer(middleware::from_fn_with_state(app.auth.clone(), auth::tokens))
        // How to ask needs no token.
        .route("/v1/openapi.json", get(|| async { Json(contract::openapi()) }))
        .route("/v1/asyncapi.json", get(|| async { Json(contract::asyncapi()) }))
        .fallback(|| async { Problem::with_status(StatusCode::NOT_FOUND.as_u16(), "not_found", "no such resource") })
        .method_not_allowed_fallback(|| async {
            Problem::with_status(StatusCode::METHOD_NOT_ALLOWED.as_u16(), "method_not_allowed", "not this method")
        })
        // Bodies are streams, bounded where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(app.auth.cors())
        .layer(middleware::from_fn_with_state(app.auth.clone(), auth::origins))
        .layer(middleware::from_fn(trace))
        .with_state(app)
}

/// A span for each request, in the trace of its `traceparent`. The query stays out of it: it is the client's.
async fn trace(request: Request, next: middleware::Next) -> Response {
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        path = %request.uri().path(),
        status = tracing::field::Empty
    );
    // Without a subscriber for traces there is no parent to set.
    let _ = span.set_parent(telemetry::parent_of(request.headers()));
    let response = next.run(request).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    response
}

/// GET /v1/capabilities.
async fn capabilities(State(app): State<App>) -> Json<Value> {
    let inventory = app.context.pool.inventory();
    let video = |codecs: &[(crate::media::VideoCodec, String)]| -> Vec<Value> {
        codecs.iter().map(|(codec, element)| json!({"codec": codec.name(), "element": element})).collect()
    };
    let audio = |codecs: &[(crate::media::AudioCodec, String)]| -> Vec<Value> {
        codecs.iter().map(|(codec, element)| json!({"codec": codec.name(), "element": element})).collect()
    };
    let config = &app.config;
    Json(json!({
        "server": concat!("segmill/", env!("CARGO_PKG_VERSION")),
        "gstreamer": inventory.version,
        "containers": {"in": ["mp4", "webm", "ts"], "out": ["cmaf", "ts"]},
        "video": {"decode": video(&inventory.video_decoders), "encode": video(&inventory.video_encoders)},
        "audio": {"decode": audio(&inventory.audio_decoders), "encode": audio(&inventory.audio_encoders)},
        "missing": inventory.missing,
        "limits": {
            "message_bytes": config.sessions.message_bytes,
            "segment_bytes": config.segments.max_bytes,
            "segment_frames": config.segments.max_frames,
            "gop_ms": config.segments.max_gop.as_millis() as u64,
            "pixels": config.segments.max_pixels,
            "outputs": app.context.settings.ladder.max_outputs,
            "sessions": config.max_sessions,
            "workers": config.workers,
            "scratch_bytes": config.scratch.bytes,
        },
    }))
}
