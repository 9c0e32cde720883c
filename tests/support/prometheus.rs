//! A real Prometheus, and its promtool: what is installed, else what `make setup` has unpacked.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// `prometheus` or `promtool`.
pub fn tool(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp").join("tools/usr/bin");
    let found = std::env::split_paths(&path).chain([target]).map(|folder| folder.join(name)).find(|file| file.exists());
    Command::new(found.unwrap_or_else(|| panic!("{name} is missing: make setup")))
}

/// One that runs; killed when dropped.
pub struct Prometheus {
    child: Child,
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// With this configuration, and other files beside it.
    pub fn start(config: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files.iter().chain([&("prometheus.yml", config)]) {
            std::fs::write(folder.path().join(name), text).expect("the folder can be written");
        }
        let mut child = tool("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus starts");
        let mut log = BufReader::new(child.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok);
        let listening = log.find(|line| line.contains("msg=\"Listening on\"")).expect("it says where it listens");
        let address = listening.split("address=").nth(1).expect("an address").trim().to_owned();
        // It goes on writing.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, address, _folder: folder }
    }

    /// What the API answers as `data`; a panic where that is an error.
    pub fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-G", "--retry", "0"]).arg(format!("http://{}/api/v1/{path}", self.address));
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.output().expect("curl is installed");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        // Until it has read its files it says so in plain text.
        assert!(answer["status"] != "error", "{path} {parameters:?}: {answer}");
        answer["data"].clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
