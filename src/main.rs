//! The `segmill` binary. All of it is in the library: see `segmill::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    segmill::cli::run()
}
