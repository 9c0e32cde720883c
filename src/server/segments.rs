//! POST /v1/segments: one self-contained piece of media in, all outputs and the receipt back as one multipart answer.

use std::collections::BTreeMap;
use std::error::Error;

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Query, Request as HttpRequest, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use schemars::JsonSchema;
use serde::Deserialize;

use super::admission::Seat;
use super::app::{App, origin};
use super::auth::Access;
use super::body::{self, Answer};
use super::problem::Problem;
use crate::protocol::{BinaryHeader, Input, InputContainer, Output, Receipt, ServerMessage};
use crate::session::{Caller, Fatal, Outgoing, Wanted};
use crate::telemetry::metrics::Operation;

/// Query parameters.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// JSON, as `outputs` in `start`; left out: the `auto` ladder.
    pub outputs: Option<String>,
    /// The container of the body; default `auto`.
    #[serde(default)]
    pub container: InputContainer,
}

/// The part `spec` of a multipart body.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    #[serde(default)]
    pub input: Input,
    pub outputs: Option<Vec<Output>>,
}

/// Answers when all is made.
pub async fn segments(State(app): State<App>, request: HttpRequest) -> Response {
    match respond(&app, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn respond(app: &App, request: HttpRequest) -> Result<Response, Problem> {
    let settings = &app.context.settings;
    let origin = origin(request.headers());
    let parameters = Query::<Parameters>::try_from_uri(request.uri());
    let Query(parameters) = parameters.map_err(|rejection| Problem::new("bad_request", rejection.body_text()))?;
    let share = Access::of(request.extensions()).open(app)?;
    let allowance = share.allowance();
    let admitted = (app.admission.admit()?, share);
    let caller = Caller { op: Operation::Segments, origin };
    let multipart = request.headers().get(CONTENT_TYPE).is_some_and(|value| {
        value.to_str().is_ok_and(|value| value.trim_start().to_ascii_lowercase().starts_with("multipart/form-data"))
    });
    let (answer, _ended) = if multipart {
        let (spec, media) = read_form(app, request, &admitted.0.seat).await?;
        let wanted =
            Wanted::segment(spec.input.container, spec.outputs, settings).map_err(|fatal| Problem::from(&fatal))?;
        body::start(app, caller, wanted.within(allowance), body::once(media), admitted)
    } else {
        let outputs = parameters.outputs.as_deref().map(serde_json::from_str).transpose();
        let outputs = outputs.map_err(|error| Problem::new("bad_request", format!("outputs: {error}")))?;
        let wanted = Wanted::segment(parameters.container, outputs, settings).map_err(|fatal| Problem::from(&fatal))?;
        let incoming = body::bounded(body::incoming(app, request.into_body()), app.config.segments.max_bytes);
        body::start(app, caller, wanted.within(allowance), incoming, admitted)
    };
    collect(app, answer).await.map(|made| made.into_response())
}

/// The parts `spec` and `media`, in either order; the media bounded by what a segment may hold.
async fn read_form(app: &App, request: HttpRequest, seat: &Seat) -> Result<(Spec, Bytes), Problem> {
    let (parts, sent) = request.into_parts();
    let request = HttpRequest::from_parts(parts, Body::from_stream(body::watched(app, sent)));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| broken_form(&error))?;
    let (mut spec, mut media) = (Spec::default(), None);
    while let Some(mut field) = form.next_field().await.map_err(|error| broken_form(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        let most = if name == "spec" { 64 << 10 } else { app.config.segments.max_bytes };
        let mut content = BytesMut::new();
        while let Some(chunk) = field.chunk().await.map_err(|error| broken_form(&error))? {
            if (content.len() + chunk.len()) as u64 > most {
                return Err(Problem::new("media_limit", format!("the part {name} is over {most} bytes")));
            }
            seat.came(chunk.len());
            content.extend_from_slice(&chunk);
        }
        match name.as_str() {
            "spec" => {
                spec = serde_json::from_slice(&content)
                    .map_err(|error| Problem::new("bad_request", format!("spec: {error}")))?;
            }
            "media" => media = Some(content.freeze()),
            other => return Err(Problem::new("bad_request", format!("the part {other} is not known"))),
        }
    }
    let media = media.ok_or_else(|| Problem::new("bad_request", "the part media is missing"))?;
    Ok((spec, media))
}

/// What is wrong with the form, or with how it came.
fn broken_form(error: &(dyn Error + 'static)) -> Problem {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(fatal) = error.downcast_ref::<Fatal>() {
            return Problem::from(fatal);
        }
        cause = error.source();
    }
    Problem::new("bad_request", format!("multipart body: {error}"))
}

/// What came back.
struct Made {
    /// By output: MIME type, file name, init and media together.
    outputs: BTreeMap<String, (String, String, BytesMut)>,
    receipts: Vec<Receipt>,
}

async fn collect(app: &App, mut answer: Answer) -> Result<Made, Problem> {
    let mut made = Made { outputs: BTreeMap::new(), receipts: Vec::new() };
    while let Some(message) = answer.next().await {
        match message {
            Outgoing::Binary(BinaryHeader::Init(init), payload) => {
                let file = format!("{}.mp4", init.output);
                let (_, _, media) = made.outputs.entry(init.output).or_insert((init.mime, file, BytesMut::new()));
                media.extend_from_slice(&payload);
            }
            Outgoing::Binary(BinaryHeader::Segment(segment), payload) => {
                let file = format!("{}.ts", segment.output);
                let fresh = ("video/mp2t".to_owned(), file, BytesMut::new());
                let (_, _, media) = made.outputs.entry(segment.output).or_insert(fresh);
                media.extend_from_slice(&payload);
            }
            Outgoing::Message(ServerMessage::Receipt(receipt)) => made.receipts.push(receipt),
            Outgoing::Message(ServerMessage::Error(error)) => return Err(app.admission.problem(&error)),
            Outgoing::Message(ServerMessage::Done(_)) => return Ok(made),
            Outgoing::Message(_) => {}
        }
    }
    Err(Problem::new("internal", "the session ended without a word"))
}

impl IntoResponse for Made {
    /// `multipart/mixed` (RFC 2046 5.1): a part an output, the receipt last.
    fn into_response(self) -> Response {
        let boundary = format!("segmill-{}", uuid::Uuid::now_v7().simple());
        let mut answer = BytesMut::new();
        for (mime, file, media) in self.outputs.into_values() {
            let disposition = format!("Content-Disposition: attachment; filename=\"{file}\"\r\n");
            let head =
                format!("--{boundary}\r\nContent-Type: {mime}\r\n{disposition}Content-Length: {}\r\n\r\n", media.len());
            answer.extend_from_slice(head.as_bytes());
            answer.extend_from_slice(&media);
            answer.extend_from_slice(b"\r\n");
        }
        let receipt = match self.receipts.as_slice() {
            [one] => serde_json::to_vec(one),
            several => serde_json::to_vec(several),
        };
        let receipt = receipt.expect("receipts hold only strings and numbers");
        answer.extend_from_slice(format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n").as_bytes());
        answer.extend_from_slice(&receipt);
        answer.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let mut response = Response::new(Body::from(answer.freeze()));
        let kind = HeaderValue::from_str(&format!("multipart/mixed; boundary={boundary}"));
        response.headers_mut().insert(CONTENT_TYPE, kind.expect("a boundary is letters and digits"));
        response
    }
}
