//! The worker process. It holds nothing between jobs, and all that it knows of a job came with it.
//!
//! [`run`] is the loop over the ipc; [`transcode`] is one job through a fresh GStreamer pipeline. C code that reads
//! strangers' media runs only here.

mod audio;
mod colour;
mod elements;
mod encoder;
mod pcm;
mod pipeline;
mod sound;
#[cfg(test)]
mod tests;
mod times;
pub mod transcode;
mod video;
