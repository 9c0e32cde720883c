//! server

pub mod admission;
mod body;
mod contract;
pub mod problem;
pub mod router;
mod segments;
mod stream;
mod transcode;
