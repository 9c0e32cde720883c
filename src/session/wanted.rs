//! What a client wants made of its stream, checked as far as that goes before the stream is known.

use std::time::Duration;

use super::resume::{Survival, Tokens};
use super::{Allowance, Fatal, Settings};
use crate::ladder::{self, Request};
use crate::protocol::{CutOn, InputContainer, Mode, Output, Start};

/// Target lengths that a client may ask for, milliseconds.
const SEGMENT_MS: std::ops::RangeInclusive<u32> = 200..=30_000;
/// How late a client may want a segment, milliseconds.
const DEADLINE_MS: std::ops::RangeInclusive<u32> = 1..=600_000;
/// Never cut: the caps on one segment hold for the whole.
const WHOLE: u32 = u32::MAX;

/// A checked request.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub(super) container: InputContainer,
    pub(super) mode: Mode,
    /// Target length of a segment; None: the service's own.
    pub(super) segment_ms: Option<u32>,
    /// In `live` mode, how long after it is complete a segment is wanted; None: by its length.
    pub(super) deadline: Option<Duration>,
    pub(super) request: Request,
    /// Splice points force a cut.
    pub(super) cut_on_splices: bool,
    /// None for what ends with its connection.
    pub(super) survival: Option<Survival>,
    /// What its caller may take a second.
    pub(super) allowance: Allowance,
}

impl Wanted {
    /// A stream, as its `start` says; `session` is its id.
    pub fn stream(start: Start, session: &str, settings: &Settings, tokens: &Tokens) -> Result<Self, Fatal> {
        check_segment_ms(start.segment_ms)?;
        if let Some(ms) = start.deadline_ms.filter(|ms| !DEADLINE_MS.contains(ms)) {
            let message = format!("deadline_ms is {} to {}, not {ms}", DEADLINE_MS.start(), DEADLINE_MS.end());
            return Err(Fatal::new("bad_message", message));
        }
        let deadline = start.deadline_ms.map(|ms| Duration::from_millis(u64::from(ms)));
        let survival = Some(Survival::new(&start, session, tokens)?);
        let request = outputs(start.outputs, settings)?;
        let Start { input, mode, segment_ms, cut_on, .. } = start;
        let cut_on_splices = cut_on.contains(&CutOn::Scte35);
        let allowance = Allowance::default();
        Ok(Self {
            container: input.container,
            mode,
            segment_ms,
            deadline,
            request,
            cut_on_splices,
            survival,
            allowance,
        })
    }

    /// One piece of media that is one segment. Without `requested`, the `auto` ladder.
    pub fn segment(
        container: InputContainer,
        requested: Option<Vec<Output>>,
        settings: &Settings,
    ) -> Result<Self, Fatal> {
        let request = outputs(requested, settings)?;
        Ok(Self {
            container,
            mode: Mode::File,
            segment_ms: Some(WHOLE),
            deadline: None,
            request,
            cut_on_splices: false,
            survival: None,
            allowance: Allowance::default(),
        })
    }

    /// The same for a caller who may take so much.
    pub fn within(self, allowance: Allowance) -> Self {
        Self { allowance, ..self }
    }

    /// A file or stream as one output, of which the source may lack the video or the audio.
    pub fn transcode(
        container: InputContainer,
        output: Output,
        segment_ms: Option<u32>,
        settings: &Settings,
    ) -> Result<Self, Fatal> {
        check_segment_ms(segment_ms)?;
        ladder::check_request(std::slice::from_ref(&output), settings.ladder)?;
        let request = Request::OfWhatIsThere(output);
        Ok(Self {
            container,
            mode: Mode::File,
            segment_ms,
            deadline: None,
            request,
            cut_on_splices: false,
            survival: None,
            allowance: Allowance::default(),
        })
    }
}

fn outputs(requested: Option<Vec<Output>>, settings: &Settings) -> Result<Request, Fatal> {
    let Some(outputs) = requested else { return Ok(Request::Auto) };
    ladder::check_request(&outputs, settings.ladder)?;
    Ok(Request::Outputs(outputs))
}

fn check_segment_ms(ms: Option<u32>) -> Result<(), Fatal> {
    match ms {
        Some(ms) if !SEGMENT_MS.contains(&ms) => {
            let message = format!("segment_ms is {} to {}", SEGMENT_MS.start(), SEGMENT_MS.end());
            Err(Fatal::new("bad_message", message))
        }
        _ => Ok(()),
    }
}
