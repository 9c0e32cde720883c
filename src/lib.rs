//! Segmill: live video in over a WebSocket, exact transcoded segments out, in order, each with a receipt.
//!
//! The modules in the order in which the data passes through them. Who may import whom is held by
//! `tests/architecture.rs`; ARCHITECTURE.md is the map.

// Here and not in Cargo.toml: tests may unwrap.
#![warn(clippy::unwrap_used)]

/// Containers and codecs: bytes in, access units out, and back. No I/O, no clock.
pub mod media;
/// Cuts the stream of access units into segments with their windows, pre-roll and post-roll.
pub mod segment;
/// What both sides of the pool share: the job, what to make of it, and its outcome.
pub mod job;
/// The protocol's messages as data.
pub mod protocol;
/// Requested outputs and the source's tracks → checked rendition specifications.
pub mod ladder;
/// The frames between pool and worker, both sides.
pub mod ipc;
/// Bounded worker processes, their queue, and their supervision.
pub mod pool;
/// The worker process: one job at a time through GStreamer. The only place that names it.
pub mod worker;
/// One client's stream, from its first byte to its last receipt.
pub mod session;
/// The platform's APIs: Cloud Run's traffic, Prometheus' answers.
pub mod cloud;
/// Whether a release does well, and what share of the traffic it has for that.
pub mod rollout;
/// HTTP and WebSocket: routes, limits, health.
pub mod server;
/// Bytes that lie in several places and are written as one.
mod chunks;
/// How long others are waited for.
pub mod patience;
/// Logs, traces, and every metric in one list.
pub mod telemetry;
/// The allocator of the program.
pub mod allocator;
/// Every knob: flag, environment variable, default, bounds.
pub mod config;
/// The command line: serve, push, rollout, doctor, health, worker.
pub mod cli;
