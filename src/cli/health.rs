//! `segmill health`: asks a running service whether it is alive, for `HEALTHCHECK` where there is no other client.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

/// How long each step of the exchange may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// `segmill health`'s flags.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The service's address of health and metrics
    #[arg(long, value_name = "ADDRESS", env = "SEGMILL_OPS_LISTEN", default_value = "127.0.0.1:9090")]
    ops: SocketAddr,

    /// Whether it takes new sessions, in place of whether it is alive
    #[arg(long)]
    ready: bool,
}

/// 0 where the service says so, else 1.
pub fn run(args: HealthArgs) -> ExitCode {
    let path = if args.ready { "/health/ready" } else { "/health/live" };
    match status(args.ops, path) {
        Ok(line) if line.split(' ').nth(1) == Some("200") => ExitCode::SUCCESS,
        Ok(line) => fail(line.trim_end()),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("segmill: {why}");
    ExitCode::FAILURE
}

/// The status line of the answer.
fn status(mut ops: SocketAddr, path: &str) -> io::Result<String> {
    // What a service listens at may be all of the machine's addresses, which can't be connected to everywhere.
    if ops.ip().is_unspecified() {
        ops.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let mut stream = TcpStream::connect_timeout(&ops, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {ops}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(io::Read::take(stream, 256)).read_line(&mut line)?;
    Ok(line)
}
