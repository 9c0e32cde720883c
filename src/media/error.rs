//! What can be wrong with media, as stable codes.

/// Why media was refused. [`Error::code`] is the stable name: protocol code, metric label, log field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first bytes are none of the containers that are read here.
    #[error("the input is not MP4, WebM/Matroska or MPEG-TS")]
    UnsupportedContainer,
    /// A track that was asked for is coded in something that is not read here.
    #[error("{0} is not supported")]
    UnsupportedCodec(String),
    /// An MP4 track's edit list is more than a delay and one piece of its media at its own speed (ISO/IEC 14496-12 8.6.6).
    #[error("the edit list {0}, which is not supported")]
    UnsupportedEditList(String),
    /// The bytes break the rules of their container or codec.
    #[error("the media is malformed: {0}")]
    BadMedia(String),
    /// The input ends in the middle of something.
    #[error("the input ends too early: {0}")]
    Truncated(String),
    /// A size in the media is over a bound of this service.
    #[error("the media is over a limit: {0}")]
    OverLimit(String),
    /// The spool for a file with its index last is full.
    #[error("the file does not fit the scratch space: {0}")]
    ScratchFull(String),
    /// The spool could not be written or read back: a fault of this service, not of the media.
    #[error("the scratch space failed: {0}")]
    ScratchFailed(String),
}

impl Error {
    /// Shorthand for [`Error::BadMedia`].
    pub fn bad(what: impl Into<String>) -> Self {
        Self::BadMedia(what.into())
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedContainer => "unsupported_container",
            Self::UnsupportedCodec(_) => "unsupported_codec",
            Self::UnsupportedEditList(_) => "unsupported_edit_list",
            Self::BadMedia(_) => "bad_media",
            Self::Truncated(_) => "truncated_input",
            Self::OverLimit(_) => "media_limit",
            Self::ScratchFull(_) => "scratch_full",
            Self::ScratchFailed(_) => "scratch_failed",
        }
    }
}
