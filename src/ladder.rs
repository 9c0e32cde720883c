//! What to make of a source: requested outputs and the source's tracks → a checked plan.
//!
//! Everything that can't be made is refused here, by name, before any media is decoded.

mod audio;

use crate::job::{Inventory, Preset, VideoSpec};
use crate::media::mux::{cmaf, ts};
use crate::media::{Audio, AudioCodec, Chroma, DataKind, Format, Track, TrackId, Video, VideoCodec, language};
use crate::protocol::{
    AudioChoice, AudioInfo, AudioRequest, FrameRate, Output, OutputContainer, OutputInfo, VideoChoice, VideoInfo,
    VideoRequest,
};

/// Heights of the `auto` ladder.
const AUTO_HEIGHTS: [u32; 4] = [1080, 720, 480, 360];

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The `auto` ladder.
    Auto,
    Outputs(Vec<Output>),
    /// One output, of which the source may lack the video or the audio.
    OfWhatIsThere(Output),
}

/// Bounds on pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most samples in a picture of the source.
    pub max_pixels: u64,
    /// Most outputs in a session.
    pub max_outputs: usize,
}

/// What is made of a source. Each track is decoded once for all its renditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub outputs: Vec<PlannedOutput>,
    pub video: Option<PlannedVideo>,
    /// In the order in which the segmenter gets them.
    pub audio: Vec<PlannedAudio>,
    /// The source's tracks of data, which ride along in outputs that are copied.
    pub data: Vec<(DataKind, TrackId)>,
}

/// One output, made of a copy or of renditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedOutput {
    pub name: String,
    pub container: OutputContainer,
    pub video: Option<Source>,
    /// Index into [`Plan::audio`], and what of it.
    pub audio: Option<(usize, Source)>,
}

impl PlannedOutput {
    /// Whether its pictures are copied, or its sound where it has none: then it carries also what rides along.
    pub fn is_copy(&self) -> bool {
        self.video.or(self.audio.map(|(_, source)| source)) == Some(Source::Copy)
    }
}

/// What of a track an output takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Copy,
    /// Index of the rendition.
    Rendition(usize),
}

/// The video track and its renditions, largest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedVideo {
    pub track: Track,
    pub source: Video,
    pub renditions: Vec<VideoSpec>,
}

/// An audio track and its renditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedAudio {
    pub track: Track,
    pub source: Audio,
    pub renditions: Vec<AudioTarget>,
}

/// One audio rendition, for the whole session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioTarget {
    /// Aac or Opus.
    pub codec: AudioCodec,
    /// Bits a second.
    pub bit_rate: u32,
    pub channels: u16,
    /// Hertz.
    pub sample_rate: u32,
}

/// Why the outputs can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The stable code.
    pub code: &'static str,
    pub message: String,
    /// The output that it is about.
    pub output: Option<String>,
}

impl Plan {
    pub fn resolve(
        request: &Request,
        tracks: &[Track],
        inventory: &Inventory,
        limits: Limits,
    ) -> Result<Self, Refused> {
        let made;
        let outputs = match request {
            Request::Outputs(outputs) => outputs,
            Request::Auto => {
                made = auto_ladder(tracks)?;
                &made
            }
            Request::OfWhatIsThere(output) => {
                made = vec![of_what_is_there(output.clone(), tracks)?];
                &made
            }
        };
        let data = tracks.iter().filter_map(|track| Some((data_kind(track)?, track.id))).collect();
        let mut plan = Self { outputs: Vec::new(), video: None, audio: Vec::new(), data };
        for output in outputs {
            let planned = plan.output(output, tracks, inventory, limits).map_err(|refused| Refused {
                output: Some(output.name.clone()),
                message: format!("output {}: {}", output.name, refused.message),
                ..refused
            })?;
            plan.outputs.push(planned);
        }
        plan.sort_video();
        Ok(plan)
    }

    /// Whether any output uses the track.
    pub fn uses(&self, id: TrackId) -> bool {
        self.video.as_ref().is_some_and(|video| video.track.id == id)
            || self.audio.iter().any(|audio| audio.track.id == id)
            || self.data.iter().any(|(_, track)| *track == id) && self.outputs.iter().any(PlannedOutput::is_copy)
    }

    /// Whether the outputs are the same. Data that begins to ride along makes no difference to what is made.
    pub fn makes_the_same(&self, other: &Self) -> bool {
        (&self.outputs, &self.video, &self.audio) == (&other.outputs, &other.video, &other.audio)
    }

    /// The outputs as the client is told.
    pub fn describe(&self) -> Vec<OutputInfo> {
        let video = |source| {
            let video = self.video.as_ref()?;
            Some(match source {
                Source::Copy => VideoInfo {
                    codec: video.source.codec_string.clone(),
                    width: video.source.width,
                    height: video.source.height,
                    copied: true,
                },
                Source::Rendition(index) => {
                    let spec = video.renditions.get(index)?;
                    let codec = spec.codec.name().to_owned();
                    VideoInfo { codec, width: spec.width, height: spec.height, copied: false }
                }
            })
        };
        let audio = |(track, source): (usize, Source)| {
            let audio = self.audio.get(track)?;
            Some(match source {
                Source::Copy => AudioInfo {
                    codec: audio.source.codec_string.clone(),
                    sample_rate: audio.source.sample_rate,
                    channels: audio.source.channels,
                    copied: true,
                },
                Source::Rendition(index) => {
                    let target = audio.renditions.get(index)?;
                    let codec = target.codec.name().to_owned();
                    AudioInfo { codec, sample_rate: target.sample_rate, channels: target.channels, copied: false }
                }
            })
        };
        let describe = |output: &PlannedOutput| OutputInfo {
            name: output.name.clone(),
            container: output.container,
            video: output.video.and_then(video),
            audio: output.audio.and_then(audio),
        };
        self.outputs.iter().map(describe).collect()
    }

    fn output(
        &mut self,
        output: &Output,
        tracks: &[Track],
        inventory: &Inventory,
        limits: Limits,
    ) -> Result<PlannedOutput, Refused> {
        let video = match &output.video {
            Some(request) => Some(self.video(request, output.container, tracks, inventory, limits)?),
            None => None,
        };
        let audio = match &output.audio {
            Some(request) => Some(self.audio(request, output.container, tracks, inventory)?),
            None => None,
        };
        Ok(PlannedOutput { name: output.name.clone(), container: output.container, video, audio })
    }

    fn video(
        &mut self,
        request: &VideoRequest,
        container: OutputContainer,
        tracks: &[Track],
        inventory: &Inventory,
        limits: Limits,
    ) -> Result<Source, Refused> {
        if self.video.is_none() {
            let (track, source) = first_video(tracks)?;
            let pixels = u64::from(source.width) * u64::from(source.height);
            if pixels > limits.max_pixels {
                let (width, height, most) = (source.width, source.height, limits.max_pixels);
                return refuse(
                    "resolution_limit",
                    format!("the source is {width}x{height}, over {most} samples a picture"),
                );
            }
            self.video = Some(PlannedVideo { track: track.clone(), source: source.clone(), renditions: Vec::new() });
        }
        let Some(planned) = &mut self.video else { return refuse("no_such_track", "the source has no video") };
        if request.codec == VideoChoice::Copy {
            if *request != copy_request(request.preset) {
                return refuse("bad_message", "a copy takes no size, crf, rate or deinterlacing");
            }
            hold(container, &planned.track.format)?;
            if container == OutputContainer::Ts && planned.source.rotation != 0 {
                return refuse("container_cannot_hold", "MPEG-TS does not say that pictures are to be turned");
            }
            return Ok(Source::Copy);
        }
        let spec = video_spec(request, &planned.source, inventory)?;
        hold_codec(container, spec.codec)?;
        if !inventory.video_decoders.iter().any(|(codec, _)| *codec == planned.source.codec) {
            return refuse("unsupported_codec", format!("no decoder for {} is installed", planned.source.codec_string));
        }
        if !inventory.video_encoders.iter().any(|(codec, _)| *codec == spec.codec) {
            return refuse("unsupported_codec", format!("no encoder for {} is installed", spec.codec.name()));
        }
        Ok(Source::Rendition(index_of(&mut planned.renditions, spec)))
    }

    fn audio(
        &mut self,
        request: &AudioRequest,
        container: OutputContainer,
        tracks: &[Track],
        inventory: &Inventory,
    ) -> Result<(usize, Source), Refused> {
        let (track, source) = audio::choose(tracks, request.track, request.language.as_deref())?;
        let index = match self.audio.iter().position(|audio| audio.track.id == track.id) {
            Some(index) => index,
            None => {
                let planned = PlannedAudio { track: track.clone(), source: source.clone(), renditions: Vec::new() };
                self.audio.push(planned);
                self.audio.len() - 1
            }
        };
        let planned = &mut self.audio[index];
        if request.codec == AudioChoice::Copy {
            if request.kbps.is_some() || request.channels.is_some() || request.sample_rate.is_some() {
                return refuse("bad_message", "a copy takes no rate or channels");
            }
            hold(container, &planned.track.format)?;
            return Ok((index, Source::Copy));
        }
        let target = audio::target(request, &planned.source)?;
        if target.codec == AudioCodec::Opus && container == OutputContainer::Ts {
            return refuse("container_cannot_hold", "MPEG-TS does not hold Opus here");
        }
        if !inventory.audio_decoders.iter().any(|(codec, _)| *codec == planned.source.codec) {
            return refuse("unsupported_codec", format!("no decoder for {} is installed", planned.source.codec_string));
        }
        if !inventory.audio_encoders.iter().any(|(codec, _)| *codec == target.codec) {
            return refuse("unsupported_codec", format!("no encoder for {} is installed", target.codec.name()));
        }
        Ok((index, Source::Rendition(index_of(&mut planned.renditions, target))))
    }

    /// Largest first, as the cascade of scalers wants them.
    fn sort_video(&mut self) {
        let Some(video) = &mut self.video else { return };
        let mut order: Vec<usize> = (0..video.renditions.len()).collect();
        let size = |index: &usize| {
            let spec = &video.renditions[*index];
            std::cmp::Reverse(u64::from(spec.width) * u64::from(spec.height))
        };
        order.sort_by_key(size);
        video.renditions = order.iter().map(|&index| video.renditions[index].clone()).collect();
        for output in &mut self.outputs {
            if let Some(Source::Rendition(index)) = &mut output.video {
                *index = order.iter().position(|&old| old == *index).unwrap_or(*index);
            }
        }
    }
}

/// What a track of data holds that is handed on.
fn data_kind(track: &Track) -> Option<DataKind> {
    let Format::Other { kind, codec } = &track.format else { return None };
    let named = [DataKind::Scte35, DataKind::Id3, DataKind::Klv].into_iter().find(|kind| kind.name() == codec);
    named.filter(|_| kind == "data")
}

/// The requests that can be checked before the source is known: names, and each output holding something.
pub fn check_request(outputs: &[Output], limits: Limits) -> Result<(), Refused> {
    if outputs.is_empty() || outputs.len() > limits.max_outputs {
        return refuse("bad_message", format!("outputs must be 1 to {}", limits.max_outputs));
    }
    for (index, output) in outputs.iter().enumerate() {
        if !is_name(&output.name) {
            return refuse("bad_message", "an output's name is 1 to 32 of A-Z a-z 0-9 . _ - and starts with no dot");
        }
        if outputs[..index].iter().any(|other| other.name == output.name) {
            return refuse("bad_message", format!("two outputs are named {}", output.name));
        }
        if output.video.is_none() && output.audio.is_none() {
            return refuse("bad_message", format!("output {} has neither video nor audio", output.name));
        }
        if let Some(video) = output.video.as_ref().filter(|video| video.codec != VideoChoice::Copy) {
            hold_codec(output.container, video_codec(video.codec))?;
        }
        if let Some(tag) = output.audio.as_ref().and_then(|audio| audio.language.as_deref())
            && !language::is_tag(tag)
        {
            return refuse(
                "bad_message",
                format!("output {}: a language is a tag as `de`, `deu` or `de-AT`", output.name),
            );
        }
        let opus = output.audio.as_ref().is_some_and(|audio| audio.codec == AudioChoice::Opus);
        if opus && output.container == OutputContainer::Ts {
            return refuse("container_cannot_hold", format!("output {}: MPEG-TS does not hold Opus here", output.name));
        }
    }
    Ok(())
}

/// The source's video copied where players take it as it is, the rungs below it as H.264, sound as AAC.
fn auto_ladder(tracks: &[Track]) -> Result<Vec<Output>, Refused> {
    let mut outputs = Vec::new();
    let video = |codec, height| Some(VideoRequest { codec, height, ..copy_request(None) });
    let output = |name: String| Output { name, container: OutputContainer::Cmaf, video: None, audio: None };
    if let Ok((_, source)) = first_video(tracks) {
        let height = source.upright().1;
        let top = even(height);
        let name = format!("{height}p");
        outputs.push(if players_take(source) {
            Output { video: video(VideoChoice::Copy, None), ..output(name) }
        } else {
            Output { video: video(VideoChoice::H264, Some(top)), ..output(name) }
        });
        for height in AUTO_HEIGHTS.into_iter().filter(|&height| height < top) {
            outputs.push(Output { video: video(VideoChoice::H264, Some(height)), ..output(format!("{height}p")) });
        }
    }
    if let Ok((_, source)) = audio::choose(tracks, None, None) {
        let codec = if source.codec == AudioCodec::Aac { AudioChoice::Copy } else { AudioChoice::Aac };
        let audio =
            Some(AudioRequest { codec, kbps: None, channels: None, sample_rate: None, track: None, language: None });
        outputs.push(Output { audio, ..output("audio".into()) });
    }
    if outputs.is_empty() {
        return refuse("no_media", "the input has no track that can be read");
    }
    Ok(outputs)
}

fn of_what_is_there(mut output: Output, tracks: &[Track]) -> Result<Output, Refused> {
    let (track, language) =
        output.audio.as_ref().map_or((None, None), |audio| (audio.track, audio.language.as_deref()));
    let (video, audio) = (first_video(tracks), audio::choose(tracks, track, language));
    if let (Err(refused), Err(_)) = (&video, &audio) {
        return Err(refused.clone());
    }
    output.video = output.video.filter(|_| video.is_ok());
    output.audio = output.audio.filter(|_| audio.is_ok());
    if output.video.is_none() && output.audio.is_none() {
        return refuse("no_such_track", "the source has nothing of what was asked for");
    }
    Ok(output)
}

/// H.264 as every browser and device plays it.
pub fn players_take(video: &Video) -> bool {
    video.codec == VideoCodec::H264 && video.bit_depth == 8 && video.chroma == Chroma::C420 && !video.interlaced
}

fn copy_request(preset: Option<Preset>) -> VideoRequest {
    VideoRequest {
        codec: VideoChoice::Copy,
        width: None,
        height: None,
        crf: None,
        max_kbps: None,
        preset,
        fps: None,
        deinterlace: None,
    }
}

fn video_spec(request: &VideoRequest, source: &Video, inventory: &Inventory) -> Result<VideoSpec, Refused> {
    let codec = video_codec(request.codec);
    let (width, height) = size(request, source)?;
    let (most, default) = match codec {
        VideoCodec::H264 => (51, 23),
        VideoCodec::H265 => (51, 28),
        _ => (63, 35),
    };
    let crf = request.crf.unwrap_or(default);
    if crf > most {
        return refuse("bad_message", format!("crf is at most {most} for {}", codec.name()));
    }
    if request.max_kbps.is_some_and(|kbps| !(16..=500_000).contains(&kbps)) {
        return refuse("bad_message", "max_kbps is 16 to 500000");
    }
    let preset = request.preset.unwrap_or(Preset::Veryfast);
    // Players of H.264 take 8 bits, and no more.
    let deep = source.bit_depth > 8 && codec != VideoCodec::H264 && inventory.deep_encoders.contains(&codec);
    Ok(VideoSpec {
        codec,
        width,
        height,
        crf,
        max_kbps: request.max_kbps,
        preset,
        depth: if deep { 10 } else { 8 },
        deinterlace: request.deinterlace.unwrap_or_default(),
        fps: request.fps.map(FrameRate::parts),
    })
}

/// Both even, of the upright picture; one side follows from the other by the source's aspect.
fn size(request: &VideoRequest, source: &Video) -> Result<(u32, u32), Refused> {
    let (source_width, source_height) = source.upright();
    // To the nearest even number.
    let side = |given: u32, of: u32, other: u32| {
        let (exact, of) = (u64::from(given) * u64::from(other), u64::from(of.max(1)));
        u32::try_from((exact + of) / (2 * of) * 2).unwrap_or(u32::MAX)
    };
    let (width, height) = match (request.width, request.height) {
        (None, None) => (even(source_width), even(source_height)),
        (Some(width), None) => (width, side(width, source_width, source_height)),
        (None, Some(height)) => (side(height, source_height, source_width).min(even_up(source_width)), height),
        (Some(width), Some(height)) => (width, height),
    };
    if width > even_up(source_width) || height > even_up(source_height) {
        let message = format!("{width}x{height} is above the source, {source_width}x{source_height}");
        return refuse("rung_above_source", message);
    }
    if width < 16 || height < 16 || width % 2 == 1 || height % 2 == 1 {
        return refuse("bad_message", format!("{width}x{height}: sides are even and at least 16"));
    }
    Ok((width, height))
}

fn first_video(tracks: &[Track]) -> Result<(&Track, &Video), Refused> {
    let found = tracks.iter().find_map(|track| match &track.format {
        Format::Video(video) => Some((track, video)),
        _ => None,
    });
    found.ok_or_else(|| missing("video", "the source has no video track".into(), tracks))
}

/// A track that can't be read is another reason than one that isn't there.
fn missing(kind: &str, message: String, tracks: &[Track]) -> Refused {
    let other = tracks.iter().find_map(|track| match &track.format {
        Format::Other { kind: this, codec } if this == kind => Some(codec),
        _ => None,
    });
    match other {
        Some(codec) if codec.ends_with(Format::UNDESCRIBED) => Refused {
            code: "no_media",
            message: format!("the source announces {kind} as {codec}: nothing came that describes it"),
            output: None,
        },
        Some(codec) => Refused {
            code: "unsupported_codec",
            message: format!("the source's {kind} is {codec}, which is not supported"),
            output: None,
        },
        None => Refused { code: "no_such_track", message, output: None },
    }
}

fn hold(container: OutputContainer, format: &Format) -> Result<(), Refused> {
    let (held, name) = match container {
        OutputContainer::Cmaf => (cmaf::holds(format), "CMAF"),
        OutputContainer::Ts => (ts::holds(format), "MPEG-TS"),
    };
    let codec = match format {
        Format::Video(video) => &video.codec_string,
        Format::Audio(audio) => &audio.codec_string,
        Format::Other { codec, .. } => codec,
    };
    if held { Ok(()) } else { refuse("container_cannot_hold", format!("{name} does not hold {codec} here")) }
}

fn hold_codec(container: OutputContainer, codec: VideoCodec) -> Result<(), Refused> {
    if container == OutputContainer::Ts && !matches!(codec, VideoCodec::H264 | VideoCodec::H265) {
        return refuse("container_cannot_hold", format!("MPEG-TS does not hold {}", codec.name()));
    }
    Ok(())
}

fn video_codec(choice: VideoChoice) -> VideoCodec {
    match choice {
        VideoChoice::H265 => VideoCodec::H265,
        VideoChoice::Vp9 => VideoCodec::Vp9,
        VideoChoice::Av1 => VideoCodec::Av1,
        VideoChoice::H264 | VideoChoice::Copy => VideoCodec::H264,
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=32).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed)
}

fn index_of<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|other| *other == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

fn even(side: u32) -> u32 {
    (side & !1).max(2)
}

fn even_up(side: u32) -> u32 {
    side + (side & 1)
}

fn refuse<T>(code: &'static str, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, message: message.into(), output: None })
}
