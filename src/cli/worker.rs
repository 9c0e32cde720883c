//! `segmill worker`: the hidden command by which the pool starts its children.

use std::process::ExitCode;

/// One worker, until its pool closes the socket.
pub fn run() -> ExitCode {
    crate::worker::run()
}
