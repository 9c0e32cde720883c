//! loadtest/ as a real k6 runs it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use serde_json::Value;
use tokio::process::Command;

/// Where k6 is. None where there is none, nor a Go that can build it; with `LOADTEST_K6=required` that is a panic.
pub static K6: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp");
    let found = std::process::Command::new("scripts/k6.sh").env("CARGO_TARGET_DIR", target).output().expect("bash");
    if found.status.success() {
        return Some(PathBuf::from(String::from_utf8(found.stdout).expect("a path").trim()));
    }
    let why = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(std::env::var_os("LOADTEST_K6").is_none_or(|wish| wish != "required"), "{why}");
    eprintln!("there is no k6: {why}");
    None
});

/// A run of it that is over.
pub struct Run {
    pub exit: i32,
    /// All that k6 has written to its outputs.
    pub told: String,
    summary: Value,
    reports: tempfile::TempDir,
}

impl Run {
    /// With these of the variables in loadtest/README.md, and no others; None where there is no k6.
    pub async fn of(variables: &[(&str, &str)]) -> Option<Self> {
        let k6 = K6.as_ref()?;
        let reports = tempfile::tempdir().expect("a temporary folder");
        let mut run = Command::new(k6);
        run.args([
            "run",
            "--no-usage-report",
            "--include-system-env-vars=false",
            "--address",
            "",
            "--no-color",
            "--quiet",
        ]);
        let out = reports.path().display().to_string();
        for (name, value) in variables.iter().chain([&("OUT", out.as_str())]) {
            run.arg("--env").arg(format!("{name}={value}"));
        }
        let run = run.arg("loadtest/stream.js").stdin(Stdio::null()).kill_on_drop(true).output();
        let output = run.await.expect("k6 runs");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let summary =
            std::fs::read(reports.path().join("summary.json")).unwrap_or_else(|_| panic!("no summary: {told}"));
        let summary = serde_json::from_slice(&summary).expect("JSON");
        Some(Self { exit: output.status.code().expect("k6 ends"), told, summary, reports })
    }

    pub fn value(&self, metric: &str, statistic: &str) -> f64 {
        let value = &self.summary["metrics"][metric]["values"][statistic];
        value.as_f64().unwrap_or_else(|| panic!("{metric} has no {statistic}: {}", self.told))
    }

    /// How often it was counted: k6 has no metric of which nothing ever was.
    pub fn count(&self, metric: &str) -> f64 {
        if self.summary["metrics"][metric].is_null() { 0.0 } else { self.value(metric, "count") }
    }

    /// The metrics whose thresholds did not hold, in the order of the alphabet.
    pub fn failed(&self) -> Vec<String> {
        let metrics = self.summary["metrics"].as_object().expect("metrics");
        let fails = |metric: &Value| {
            metric["thresholds"].as_object().is_some_and(|all| all.values().any(|threshold| threshold["ok"] == false))
        };
        let failed: BTreeSet<_> = metrics.iter().filter(|(_, metric)| fails(metric)).map(|(name, _)| name).collect();
        failed.into_iter().cloned().collect()
    }

    pub fn report(&self, name: &str) -> String {
        std::fs::read_to_string(self.reports.path().join(name)).expect("a report")
    }
}
