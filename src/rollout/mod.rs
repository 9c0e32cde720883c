//! A roll-out: what a release is at ([`release`]), whether it does well ([`rules`], [`judge`]), and what follows from that
//! ([`decide`]), all without I/O; who reads, asks and changes ([`steward`]), and
//! who does so for as long as a step lasts ([`watch`]).
//!
//! Traffic is 100 % in all over one or two named revisions. What has to be remembered is an annotation of the service, so
//! that it changes with the traffic or not at all.

pub mod decide;
pub mod judge;
pub mod release;
pub mod rules;
pub mod steward;
pub mod watch;
