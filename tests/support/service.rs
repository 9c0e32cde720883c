//! The real binary as a child process, on ports that the system chose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// A running service; killed when dropped.
pub struct Service {
    child: Child,
    pub listen: SocketAddr,
    pub ops: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Service {
    /// `segmill serve` with `flags`, ready to be used.
    pub fn start(flags: &[&str]) -> Self {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_segmill"));
        serve.arg("serve");
        Self::run(serve, flags)
    }

    /// The same, it and its workers on one processor alone.
    pub fn on_processor(number: usize, flags: &[&str]) -> Self {
        let mut serve = Command::new("taskset");
        serve.args(["-c", &number.to_string(), env!("CARGO_BIN_EXE_segmill"), "serve"]);
        Self::run(serve, flags)
    }

    /// The same, with no more than so many files open at once.
    pub fn with_descriptors(most: usize, flags: &[&str]) -> Self {
        let mut serve = Command::new("sh");
        serve.args(["-c", &format!("ulimit -n {most} && exec \"$0\" serve \"$@\""), env!("CARGO_BIN_EXE_segmill")]);
        Self::run(serve, flags)
    }

    /// The same service with workers that can be told to fail by a file in `folder` (`examples/chaos_service.rs`).
    pub fn chaos(folder: &Path, flags: &[&str]) -> Self {
        let test = std::env::current_exe().expect("a test has a path");
        let profile = test.parent().and_then(Path::parent).expect("…/deps/chaos_…");
        let program = profile.join("examples/chaos_service");
        assert!(program.exists(), "build it: cargo build --example chaos_service");
        let mut serve = Command::new(program);
        serve.env("CHAOS_DIR", folder);
        Self::run(serve, flags)
    }

    /// `segmill serve` of another file, a copy of it.
    pub fn of(program: &Path, flags: &[&str]) -> Self {
        let mut serve = Command::new(program);
        serve.arg("serve");
        Self::run(serve, flags)
    }

    fn run(mut serve: Command, flags: &[&str]) -> Self {
        let mut child = serve
            .args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--log-format", "json"])
            // Workers do what tests have them do, and nothing else, unless a flag says so.
            .env("SEGMILL_CALIBRATE", "false")
            .args(flags)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::default();
        let (listen, ops) = ready(child.stderr.take().expect("stderr is piped"), Arc::clone(&log));
        Self { child, listen, ops, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged until now.
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with it").clone()
    }

    /// The process ids of its workers, as the kernel tells them.
    pub fn workers(&self) -> Vec<u32> {
        let pid = self.pid();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the service is running");
        let children = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        children.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
    }

    /// How many files it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the service is running").count()
    }

    /// Bytes of its memory that are in use, its workers' not counted.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the service is running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of memory");
        line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).expect("a number") << 10
    }

    /// Processor time that it has taken, its workers' not counted.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the service is running");
        let (_, fields) = stat.rsplit_once(')').expect("the name in brackets");
        // proc(5): utime and stime, the 14th and 15th field, in hundredths of a second.
        let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// The value of a metric's series, as `name` or `name{label="value"}` names it; None where there is none.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get_ops("/metrics");
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// GET on the ops port: status and body.
    pub fn get_ops(&self, path: &str) -> (u16, String) {
        let (status, _, body) = request(self.ops, "GET", path, &[], b"");
        (status, String::from_utf8(body).expect("text"))
    }

    /// A whole HTTP/1.1 exchange on the public port: status, headers, body.
    pub fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, Vec<u8>) {
        request(self.listen, method, path, headers, body)
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("the child can be waited for");
    }

    /// Its exit code, once it has ended by itself.
    pub fn exit_code(mut self) -> Option<i32> {
        self.child.wait().expect("the child can be waited for").code()
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        signal(self.pid(), "TERM");
        self.child.wait().expect("the child can be waited for").code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Already gone after `terminate`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().expect("kill runs");
    assert!(sent.success() || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// The log of a service that a test has started itself, up to the line with this message.
pub fn log_until(service: &mut Child, message: &str) -> String {
    let mut log = String::new();
    for line in BufReader::new(service.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok) {
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        log += &line;
        log.push('\n');
        if parsed["message"] == message {
            return log;
        }
    }
    panic!("the service ended: {log}");
}

/// Reads the log until the service says that it is ready, and goes on reading so that it never blocks.
fn ready(stderr: ChildStderr, log: Arc<Mutex<String>>) -> (SocketAddr, SocketAddr) {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            log.lock().expect("nobody panics with it").push_str(&format!("{line}\n"));
            match parsed["message"].as_str() {
                Some("ready") => {
                    let address = |key: &str| parsed[key].as_str().and_then(|text| text.parse().ok());
                    let _ = sender.send(address("listen").zip(address("ops_listen")));
                }
                _ if parsed["level"] == "ERROR" => eprintln!("service: {line}"),
                _ => {}
            }
        }
    });
    receiver.recv_timeout(Duration::from_secs(60)).ok().flatten().expect("the service says that it is ready")
}

/// A whole HTTP/1.1 exchange: status, headers, body.
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(to).expect("the port is open");
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).expect("the request is taken");
    let mut writer = stream.try_clone().expect("a socket can be cloned");
    let body = body.to_vec();
    // The answer may come before the body is all sent, and the rest of the body may be refused.
    let sending = std::thread::spawn(move || drop(writer.write_all(&body)));
    let mut answer = Vec::new();
    // A refused upload may end in a reset after the answer.
    let _ = stream.read_to_end(&mut answer);
    sending.join().expect("sending does not panic");
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an HTTP answer");
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    let body = answer[split + 4..].to_vec();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (status, head, if chunked { dechunk(&body) } else { body })
}

/// RFC 9112 7.1; a body that breaks off gives what came.
fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(line) = body.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&body[..line]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(size) = size.filter(|&size| size > 0 && line + 2 + size <= body.len()) else { break };
        whole.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = body.get(line + 2 + size + 2..).unwrap_or_default();
    }
    whole
}
