//! The contracts, over the public surface: the real program, real sockets. One crate, as each would compile and link all of
//! what they share again: `cargo test --test suite MODULE::` runs one file's.

mod support;

mod alerts;
mod architecture;
mod audio_joins;
mod auth;
mod autobahn;
mod barcode;
mod bench;
mod chunks;
mod command_line;
mod containers;
mod degrade;
mod demux_resume;
mod deploy;
mod doctor;
mod end_to_end;
mod head_starts;
mod hostile;
mod http;
mod jail;
mod loadtest;
mod pictures;
mod pool;
mod protocol_docs;
mod refusals;
mod resilience;
mod resume;
mod ride_along;
mod rollout;
mod slow_clients;
mod standing_still;
mod timelines;
