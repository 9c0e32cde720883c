//! The protocol's messages as data (version 1), and the one place that maps codes to close codes and statuses.

mod frame_rate;

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::frame_rate::FrameRate;
use crate::job::{Deinterlace, Preset};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "segmill.v1";

/// Text messages from the client. Unknown fields are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ClientMessage {
    Start(Start),
    /// No more bytes on this channel.
    Finish {
        channel: u8,
    },
    /// All of this segment and everything before it has been received and kept.
    Ack {
        seq: u64,
    },
}

/// The first message of a session.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    #[serde(default)]
    pub input: Input,
    #[serde(default)]
    pub mode: Mode,
    /// Target length of a segment, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_ms: Option<u32>,
    /// In `live` mode, how long after a segment is complete the client wants it by, milliseconds; None: twice the target
    /// length of a segment. One that would come later is made of less, as its receipt says; what is not begun by then
    /// fails as `late`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
    /// None: the `auto` ladder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<Output>>,
    /// What forces a cut at the first sync sample at or after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut_on: Vec<CutOn>,
    /// Goes on where another session of the same input and outputs was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumeFrom>,
}

/// What may force a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CutOn {
    /// The splice points of splice_insert and time_signal.
    Scte35,
}

/// Where a session goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeFrom {
    /// Of a `receipt` or a `moved`.
    pub token: String,
}

/// What is streamed in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    #[serde(default)]
    pub container: InputContainer,
}

/// The input's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputContainer {
    /// Told by the first bytes.
    #[default]
    Auto,
    Mp4,
    Webm,
    Ts,
}

/// What counts for more, time or wholeness. In `live` a segment has a deadline, and is made of less to meet it; in `file`
/// nothing is ever degraded. A track that lags behind another is waited for: 3 s of media in `live`, 30 s in `file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Live,
    #[default]
    File,
}

/// One output that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// 1 to 32 of `A-Z a-z 0-9 . _ -`, not starting with a dot; unique in the session.
    pub name: String,
    #[serde(default)]
    pub container: OutputContainer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoRequest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioRequest>,
}

/// An output's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputContainer {
    #[default]
    Cmaf,
    Ts,
}

/// The video of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VideoRequest {
    pub codec: VideoChoice,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// The codec's constant-quality number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crf: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_kbps: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// None: the source's pictures, each once at its own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<FrameRate>,
    /// Pictures made of an interlaced one; default `frame`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deinterlace: Option<Deinterlace>,
}

/// Codecs that video can be made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VideoChoice {
    Copy,
    H264,
    H265,
    Vp9,
    Av1,
}

/// The audio of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AudioRequest {
    pub codec: AudioChoice,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kbps: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Which of the source's audio tracks, from 0. None: the first, or the first in `language`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<u32>,
    /// BCP 47 or ISO 639-2: only a track in this language. With `track`, both have to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

/// Codecs that audio can be made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AudioChoice {
    Copy,
    Aac,
    Opus,
}

/// Text messages from the server. Clients ignore fields and types that they don't know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerMessage {
    Ready(Ready),
    Tracks(Tracks),
    Receipt(Receipt),
    Event(Event),
    Moved(Moved),
    Pressure(Pressure),
    Error(ErrorMessage),
    Done(Done),
}

/// The session is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// UUID, version 7.
    pub session: String,
    pub server: String,
    pub limits: SessionLimits,
}

/// What a session may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionLimits {
    pub message_bytes: u64,
    /// Most bytes of source media in one segment.
    pub segment_bytes: u64,
    /// 0: no limit.
    pub max_session_s: u64,
}

/// The input's tracks, and the outputs as resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tracks {
    /// `mp4`, `webm` or `ts`.
    pub container: String,
    pub tracks: Vec<TrackInfo>,
    pub outputs: Vec<OutputInfo>,
}

/// One track of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrackInfo {
    pub id: u32,
    /// `video`, `audio`, `text` or `data`.
    pub kind: String,
    /// RFC 6381 where the codec is known, else the container's own name.
    pub codec: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    pub timescale: u32,
    /// Whether any output uses it.
    pub used: bool,
}

/// One output as resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputInfo {
    pub name: String,
    pub container: OutputContainer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioInfo>,
}

/// An output's video.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VideoInfo {
    /// What it is made into; for a copy, what the source is.
    pub codec: String,
    pub width: u32,
    pub height: u32,
    pub copied: bool,
}

/// An output's audio.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AudioInfo {
    pub codec: String,
    pub sample_rate: u32,
    pub channels: u16,
    pub copied: bool,
}

/// Header of a binary message: an output's initialisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InitHeader {
    pub output: String,
    /// From 1; rises when the set-up changes.
    pub id: u32,
    /// With the `codecs` parameter (RFC 6381).
    pub mime: String,
    pub timescale: u32,
}

/// Header of a binary message: one output's media of one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SegmentHeader {
    pub seq: u64,
    pub output: String,
    /// The `init` that it belongs to; null in TS.
    pub init: Option<u32>,
    pub start: i64,
    pub duration: i64,
    pub timescale: u32,
    /// Pictures, or audio frames where there is no video.
    pub frames: u64,
    pub bytes: u64,
    /// Of the media, hexadecimal.
    pub sha256: String,
    pub independent: bool,
    pub discontinuity: bool,
}

/// Headers of binary messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum BinaryHeader {
    Init(InitHeader),
    Segment(SegmentHeader),
}

/// What became of a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    pub seq: u64,
    pub start_ms: i64,
    pub duration_ms: i64,
    /// Video frames of the source that are presented in the segment.
    pub frames_in: u64,
    /// By output.
    pub frames_out: BTreeMap<String, u64>,
    /// Pictures (or fields, where each is a picture) that are not shown, by output with a rate of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frames_dropped: BTreeMap<String, u64>,
    /// Pictures shown again, by output with a rate of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frames_repeated: BTreeMap<String, u64>,
    /// Samples a channel, by output.
    pub audio_samples: BTreeMap<String, u64>,
    /// Samples a channel of the source that could not be decoded and are silent in what was made, all tracks together.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub audio_lost: u64,
    pub queued_ms: u64,
    pub transcode_ms: u64,
    /// From the segment's last byte in to its last byte handed to the socket.
    pub latency_ms: u64,
    pub cpu_ms: u64,
    /// Of its jobs, the most.
    pub attempts: u32,
    /// Pictures and sounds whose time was taken or nonsense: they have another, or, of sound, were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repaired: u64,
    /// Pictures that no decoder can use: before the first sync sample, and what leads it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub undecodable: u64,
    pub outcome: SegmentOutcome,
    pub degraded: Vec<Degraded>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<SegmentError>,
    /// How to go on after this segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// How a session can go on over a new connection, to any instance that knows the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resume {
    /// For `start`.
    pub token: String,
    /// The byte of channel 0 from which to send again.
    pub offset: u64,
    /// How many bytes from the beginning of channel 0 to send before that.
    pub set_up_bytes: u64,
}

/// The server is going to close, with 1012. All segments that came are valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Moved {
    pub reason: MoveReason,
    pub resume: Resume,
    /// How long the connection stays open, milliseconds.
    pub close_in_ms: u64,
}

/// Why a session has to go on elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MoveReason {
    /// The service is shutting down.
    Drain,
    /// The session has lasted as long as one may.
    SessionLimit,
    /// The bearer token with which it began has expired: go on with a new one.
    TokenExpired,
}

/// What rides along with the media: sent with the segment that was cut next after it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    pub seq: u64,
    pub kind: EventKind,
    /// The source's track; none for an event message box.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<u32>,
    /// When it takes effect.
    pub time_ms: i64,
    /// The same in `timescale`, on the source's own timeline.
    pub start: i64,
    pub timescale: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<i64>,
    /// Of an event message box: scheme_id_uri.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splice: Option<Splice>,
    /// The section, tag, packet or message as it came; base64.
    pub data: String,
    /// How many before it were damaged, or too many to be held, and have been left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What an event holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A splice_info_section.
    Scte35,
    /// An ID3 tag.
    Id3,
    /// A message of another scheme.
    Emsg,
    /// KLV metadata.
    Klv,
}

impl EventKind {
    /// As it is written in a message.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scte35 => "scte35",
            Self::Id3 => "id3",
            Self::Emsg => "emsg",
            Self::Klv => "klv",
        }
    }
}

/// The essentials of a splice_info_section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Splice {
    /// As SCTE 35 names it: `splice_insert`, `time_signal`, …
    pub command: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<u32>,
    /// The event is called off.
    pub cancel: bool,
    pub immediate: bool,
    /// Of a splice_insert: true out of the network, false back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_network: Option<bool>,
    /// In the event's `timescale`, on the source's own timeline, pts_adjustment added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splice_time: Option<i64>,
    /// Of the break, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segmentations: Vec<Segmentation>,
}

/// A segmentation_descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Segmentation {
    pub event_id: u32,
    pub cancel: bool,
    /// segmentation_type_id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_id: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
}

/// How a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SegmentOutcome {
    Ok,
    Degraded,
    Failed,
}

/// One thing that was not made as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Degraded {
    pub output: String,
    pub what: DegradedWhat,
    pub why: DegradedWhy,
    /// A few words for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What was not made as asked. All of them, in the order in which a live session is degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DegradedWhat {
    /// The output's pictures have no closed captions, and the source's have.
    Captions,
    /// A faster preset than asked for.
    Preset,
    /// The output has no media in this segment.
    RungLeftOut,
    /// The source's pictures as they are, in its size and at its rate of bits, in place of those asked for.
    SourceCopied,
    /// All that there is of the segment was handed on after its deadline, or some of it.
    DeliveredLate,
}

impl DegradedWhat {
    pub const ALL: [Self; 5] =
        [Self::Captions, Self::Preset, Self::RungLeftOut, Self::SourceCopied, Self::DeliveredLate];

    /// As it is written in a message.
    pub fn name(self) -> &'static str {
        match self {
            Self::Captions => "captions",
            Self::Preset => "preset",
            Self::RungLeftOut => "rung_left_out",
            Self::SourceCopied => "source_copied",
            Self::DeliveredLate => "delivered_late",
        }
    }
}

/// Why something was not made as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DegradedWhy {
    /// The output's codec has no place for it.
    Codec,
    /// It would not have come by the deadline, or did not.
    Late,
}

/// Why a segment failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SegmentError {
    pub code: String,
    pub message: String,
}

/// How far the service is behind; sent when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pressure {
    pub level: PressureLevel,
    pub queued_ms: u64,
}

/// `some`: segments wait for a worker. `full`: the socket is not read until one is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PressureLevel {
    None,
    Some,
    Full,
}

/// Something went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorMessage {
    pub code: String,
    /// A sentence for a person.
    pub message: String,
    /// The close follows.
    pub fatal: bool,
    /// Whether the same again may succeed.
    pub retryable: bool,
    pub seq: Option<u64>,
    pub output: Option<String>,
}

/// All is delivered; close 1000 follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    pub segments: u64,
    pub frames_in: u64,
    pub frames_out: BTreeMap<String, u64>,
    pub failed: u64,
    pub degraded: u64,
}

/// A binary message: a 4-byte big-endian length, that many bytes of JSON header, the payload.
pub fn encode_binary(header: &BinaryHeader, payload: &[u8]) -> Bytes {
    [binary_head(header).as_ref(), payload].concat().into()
}

/// All of a binary message that comes before its payload.
pub fn binary_head(header: &BinaryHeader) -> Bytes {
    let json = serde_json::to_vec(header).expect("headers hold only strings and numbers");
    let mut head = BytesMut::with_capacity(4 + json.len());
    head.put_u32(json.len() as u32);
    head.put_slice(&json);
    head.freeze()
}

/// The header and the payload of a binary message; None where it is malformed.
pub fn decode_binary(mut message: Bytes) -> Option<(BinaryHeader, Bytes)> {
    if message.len() < 4 {
        return None;
    }
    let length = u32::from_be_bytes(message.split_to(4)[..].try_into().ok()?) as usize;
    if length > message.len() {
        return None;
    }
    let header = message.split_to(length);
    serde_json::from_slice(&header).ok().map(|header| (header, message))
}

/// The close code of a fatal error's code.
pub fn close_code(code: &str) -> u16 {
    status_of(code).0
}

/// The HTTP status of an error's code.
pub fn http_status(code: &str) -> u16 {
    status_of(code).1
}

/// The one table: code → (WebSocket close code, HTTP status).
fn status_of(code: &str) -> (u16, u16) {
    match code {
        "bad_message" | "bad_request" | "resume_mismatch" => (4400, 400),
        "resume_forged" | "resume_expired" | "forbidden_origin" => (1008, 403),
        "unauthorized" | "token_expired" => (1008, 401),
        "quota_exceeded" => (1013, 429),
        "keys_unavailable" => (1013, 503),
        "client_gone" => (1000, 400),
        "idle_timeout" | "start_timeout" | "ping_timeout" | "slow_client" | "too_slow" => (4408, 408),
        "resolution_limit" | "media_limit" | "scratch_full" | "gop_too_long" => (4413, 413),
        "message_too_big" => (1009, 413),
        "unsupported_container" | "unsupported_codec" | "unsupported_edit_list" => (4415, 415),
        "bad_media"
        | "truncated_input"
        | "rung_above_source"
        | "container_cannot_hold"
        | "no_such_track"
        | "no_media"
        | "frame_mismatch"
        | "poison_segment" => (4422, 422),
        "full" | "late" => (1013, 503),
        "closing" => (1001, 503),
        _ => (4500, 500),
    }
}
