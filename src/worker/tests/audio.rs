//! Audio jobs.
