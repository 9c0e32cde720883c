//! The `segmill` binary. All of it is in the library: see `segmill::cli`.

use std::process::ExitCode;

use segmill::allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    segmill::cli::run()
}
