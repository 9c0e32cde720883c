//! POST (or PUT, as `curl -T` does) /v1/transcode: a whole file or a live stream in, one output out as it is made.

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use schemars::JsonSchema;
use serde::Deserialize;

use super::app::{App, origin};
use super::auth::Access;
use super::body::{self, Answer};
use super::problem::Problem;
use crate::job::{Deinterlace, Preset};
use crate::protocol::{
    AudioChoice, AudioRequest, BinaryHeader, Done, FrameRate, InputContainer, Output, OutputContainer, ServerMessage,
    VideoChoice, VideoRequest,
};
use crate::session::{Caller, Outgoing, Wanted};
use crate::telemetry::metrics::Operation;

/// The trailer that carries [`Done`] as JSON.
const SUMMARY: HeaderName = HeaderName::from_static("segmill-summary");

/// What to make of the body. Unknown parameters are errors.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Of the input; default `auto`.
    #[serde(default)]
    pub input: InputContainer,
    /// Of the output; default `cmaf`.
    #[serde(default)]
    pub container: OutputContainer,
    /// Video codec, default `h264`; `none` leaves the video out.
    #[serde(default)]
    pub codec: VideoParameter,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub crf: Option<u8>,
    pub max_kbps: Option<u32>,
    pub preset: Option<Preset>,
    pub fps: Option<FrameRate>,
    pub deinterlace: Option<Deinterlace>,
    /// Audio codec, default `aac`; `none` leaves the sound out.
    #[serde(default)]
    pub audio: AudioParameter,
    /// Of the audio.
    pub kbps: Option<u32>,
    pub channels: Option<u16>,
    pub sample_rate: Option<u32>,
    /// Which of the source's audio tracks, from 0.
    pub track: Option<u32>,
    /// BCP 47 or ISO 639-2: only an audio track in this language.
    pub language: Option<String>,
    pub segment_ms: Option<u32>,
}

/// [`VideoChoice`], or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VideoParameter {
    None,
    Copy,
    #[default]
    H264,
    H265,
    Vp9,
    Av1,
}

/// [`AudioChoice`], or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AudioParameter {
    None,
    Copy,
    #[default]
    Aac,
    Opus,
}

/// Answers when the first bytes of the output are there: until then a refusal still has its own status.
pub async fn transcode(
    State(app): State<App>,
    Extension(access): Extension<Access>,
    headers: HeaderMap,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request_body: Body,
) -> Response {
    match respond(&app, &access, &headers, parameters, request_body).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn respond(
    app: &App,
    access: &Access,
    headers: &HeaderMap,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request_body: Body,
) -> Result<Response, Problem> {
    let Query(parameters) = parameters.map_err(|rejection| Problem::new("bad_request", rejection.body_text()))?;
    let wanted = wanted(parameters, app)?;
    let share = access.open(app)?;
    let wanted = wanted.within(share.allowance());
    let admitted = (app.admission.admit()?, share);
    let caller = Caller { op: Operation::Transcode, origin: origin(headers) };
    let (mut answer, _ended) = body::start(app, caller, wanted, body::incoming(app, request_body), admitted);
    let (mime, first) = loop {
        match answer.next().await {
            Some(Outgoing::Binary(BinaryHeader::Init(init), payload)) => break (init.mime, payload),
            Some(Outgoing::Binary(BinaryHeader::Segment(_), payload)) => break ("video/mp2t".to_owned(), payload),
            Some(Outgoing::Message(ServerMessage::Error(error))) => {
                return Err(app.admission.problem(&error));
            }
            Some(Outgoing::Message(ServerMessage::Done(_))) | None => {
                return Err(Problem::new("no_media", "nothing came out"));
            }
            Some(Outgoing::Message(_)) => {}
        }
    };
    let trailers = headers.get_all(header::TE).iter().any(|te| te.to_str().is_ok_and(|te| te.contains("trailers")));
    let frames = futures_util::stream::unfold(Some((first, answer)), next_frame);
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let mime = HeaderValue::from_str(&mime).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CONTENT_TYPE, mime);
    if trailers {
        response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("segmill-summary"));
    }
    Ok(response)
}

/// What is left of a payload, and where more comes from.
type Flow = Option<(Bytes, Answer)>;

/// The next bytes of the output; the trailer last. A session that ends early breaks the body off, so that a client
/// can't take a part for the whole.
async fn next_frame(flow: Flow) -> Option<(Result<Frame<Bytes>, std::io::Error>, Flow)> {
    let (mut payload, mut answer) = flow?;
    loop {
        if !payload.is_empty() {
            let piece = answer.piece(&mut payload);
            return Some((Ok(Frame::data(piece)), Some((payload, answer))));
        }
        match answer.next().await {
            Some(Outgoing::Binary(_, more)) => payload = more,
            Some(Outgoing::Message(ServerMessage::Done(done))) => return Some((Ok(trailer(&done)), None)),
            Some(Outgoing::Message(ServerMessage::Error(error))) => {
                return break_off(format!("{}: {}", error.code, error.message)).await;
            }
            Some(Outgoing::Message(_)) => {}
            None => return break_off("the session ended early".to_owned()).await,
        }
    }
}

async fn break_off(why: String) -> Option<(Result<Frame<Bytes>, std::io::Error>, Flow)> {
    // An error at once would take what hyper has not written yet: it writes when the body is not ready.
    tokio::task::yield_now().await;
    Some((Err(std::io::Error::other(why)), None))
}

fn trailer(done: &Done) -> Frame<Bytes> {
    let json = serde_json::to_string(done).expect("a summary holds only strings and numbers");
    let value = HeaderValue::from_str(&json).unwrap_or(HeaderValue::from_static("{}"));
    Frame::trailers(HeaderMap::from_iter([(SUMMARY, value)]))
}

fn wanted(parameters: Parameters, app: &App) -> Result<Wanted, Problem> {
    let video = match parameters.codec {
        VideoParameter::None => None,
        VideoParameter::Copy => Some(VideoChoice::Copy),
        VideoParameter::H264 => Some(VideoChoice::H264),
        VideoParameter::H265 => Some(VideoChoice::H265),
        VideoParameter::Vp9 => Some(VideoChoice::Vp9),
        VideoParameter::Av1 => Some(VideoChoice::Av1),
    };
    let audio = match parameters.audio {
        AudioParameter::None => None,
        AudioParameter::Copy => Some(AudioChoice::Copy),
        AudioParameter::Aac => Some(AudioChoice::Aac),
        AudioParameter::Opus => Some(AudioChoice::Opus),
    };
    let output = Output {
        name: "out".to_owned(),
        container: parameters.container,
        video: video.map(|codec| VideoRequest {
            codec,
            width: parameters.width,
            height: parameters.height,
            crf: parameters.crf,
            max_kbps: parameters.max_kbps,
            preset: parameters.preset,
            fps: parameters.fps,
            deinterlace: parameters.deinterlace,
        }),
        audio: audio.map(|codec| AudioRequest {
            codec,
            kbps: parameters.kbps,
            channels: parameters.channels,
            sample_rate: parameters.sample_rate,
            track: parameters.track,
            language: parameters.language,
        }),
    };
    let settings = &app.context.settings;
    Wanted::transcode(parameters.input, output, parameters.segment_ms, settings).map_err(|fatal| Problem::from(&fatal))
}
