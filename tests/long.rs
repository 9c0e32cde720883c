//! What takes long: `make soak`, `make chaos`, `make drill`. Not part of `cargo test`.

mod support;

mod canary_drill;
mod chaos_bytes;
mod chaos_clients;
mod chaos_drain;
mod chaos_faults;
mod chaos_kills;
mod chaos_overload;
mod soak;
mod soak_faults;
