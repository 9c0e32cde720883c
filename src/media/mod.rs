//! Containers and codecs in memory-safe Rust: bytes in, access units out, and back to bytes.
//!
//! Nothing here does I/O, reads a clock or spawns anything; bytes and times are arguments. All input is hostile:
//! every length is bounded before it is believed, and malformed media ends in an [`Error`], never in a panic.

pub mod access_unit;
mod arena;
pub mod codec;
pub mod data;
pub mod demux;
pub mod error;
pub mod language;
pub mod mux;
pub mod timeline;

pub use access_unit::{
    AccessUnit, Audio, AudioCodec, Chroma, Colour, Format, Hdr, Mastering, Sync, Ticks, Timescale, Track, TrackId,
    Video, VideoCodec, Window,
};
pub use data::{DataKind, DataUnit};
pub use error::Error;
