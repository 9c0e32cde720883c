use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("worker") => segmill::worker::run(),
        _ => ExitCode::from(64),
    }
}
