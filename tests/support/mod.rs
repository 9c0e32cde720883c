//! Media that proves what happened to it: pictures that carry their number, sound that tells its time; and the service
//! to send it through.

// Two crates of tests use this, each a part of it.
#![allow(dead_code)]

pub mod barcode;
pub mod canary;
pub mod client;
pub mod cloud;
pub mod damage;
pub mod data;
pub mod k6;
pub mod media;
pub mod overload;
pub mod prometheus;
pub mod raw;
pub mod service;
pub mod sound;
pub mod tokens;
pub mod verify;
