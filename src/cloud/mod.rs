//! The platform's APIs, as far as roll-outs use them: Cloud Run's traffic ([`run`]) and Prometheus' answers
//! ([`prometheus`]), over one HTTP client ([`http`]) with the tokens that the platform gives ([`token`]).
//!
//! All that comes back is bounded, and read as a stranger's. What is decided by it is the roll-out's.

mod api;
pub mod http;
pub mod prometheus;
pub mod run;
mod token;

pub use self::api::{Api, Error};
pub use self::token::Tokens;

use std::time::Duration;

/// Three quarters to five quarters of `wait`, so that those who wait for the same don't come at once.
pub fn jittered(wait: Duration) -> Duration {
    // Without randomness all come at once.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    wait.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
