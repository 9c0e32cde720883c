//! What deploys says what the program knows: variables and flags in terraform/, Cloud Build's files and the image.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use crate::support::service::Service;

fn read(path: &PathBuf) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let files = files.map(|file| file.expect("a file").path());
    files.filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
}

fn builds() -> Vec<PathBuf> {
    [vec!["cloudbuild.yaml".into()], files("deploy/cloudbuild", ".yaml")].concat()
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_segmill")).args(arguments).arg("--help").output().expect("it starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The names that begin with SEGMILL_.
fn variables(text: &str) -> BTreeSet<String> {
    let starts = text.match_indices("SEGMILL_").map(|(at, _)| &text[at..]);
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    starts.map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_variable_that_is_set_is_one_that_the_program_knows() {
    const ROLLOUT: [&str; 5] = ["status", "promote", "watch", "rollback", "serve"];
    let mut known = variables(&help(&["serve"]));
    for command in ROLLOUT {
        known.append(&mut variables(&help(&["rollout", command])));
    }
    assert!(known.len() > 50, "{known:?}");

    let places = [files("terraform", ".tf"), files("terraform/tests", ".hcl"), builds(), vec!["Dockerfile".into()]];
    let set: BTreeSet<String> = places.concat().iter().flat_map(|path| variables(&read(path))).collect();
    assert!(set.contains("SEGMILL_RESUME_KEY") && set.contains("SEGMILL_OPS_LISTEN"), "{set:?}");
    let unknown: Vec<_> = set.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn what_terraform_sets_starts_a_service() {
    // What Terraform's own test holds the service's environment to.
    let told = read(&"terraform/tests/service.tftest.hcl".into());
    let run = told.split("run \"environment\" {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("its run");
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("keys");
    std::fs::write(&key, "ab".repeat(32)).expect("it is written");

    let mut flags = Vec::new();
    for line in run.lines().filter(|line| line.trim_start().starts_with("SEGMILL_")) {
        let (name, value) = line.split_once('=').expect("NAME = \"VALUE\"");
        let flag = name.trim().trim_start_matches("SEGMILL_").to_lowercase().replace('_', "-");
        let value = value.trim().trim_matches('"');
        let value = value.replace("/secrets/resume-key/keys", &key.to_string_lossy());
        let value = value.replace("/scratch", &folder.path().to_string_lossy());
        // Its port is taken by whoever runs this beside another.
        if flag != "ops-listen" {
            flags.extend([format!("--{flag}"), value]);
        }
    }
    assert!(flags.len() >= 12, "{flags:?}");
    // Cloud Run says which revision it is; nobody answers here.
    let platform = [
        "--run-revision",
        "segmill-00001-abc",
        "--run-url",
        "http://127.0.0.1:9",
        "--run-metadata-url",
        "http://127.0.0.1:9",
    ];
    flags.extend(platform.map(str::to_owned));
    let service = Service::start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(service.get_ops("/health/live").0, 200);
}

#[test]
fn every_flag_of_a_build_is_one_that_the_program_knows() {
    let mut seen = BTreeSet::new();
    for path in builds() {
        // A command may go over several lines.
        let text = read(&path).replace("\\\n", " ");
        for line in text.lines().filter(|line| line.contains("docker run ")) {
            let Some((_, command)) = line.split_once(" rollout ") else { continue };
            let mut words = command.split_whitespace();
            let name = words.next().expect("a command");
            let page = help(&["rollout", name]);
            for flag in words.filter(|word| word.starts_with("--")) {
                assert!(page.contains(&format!("{flag} ")), "{}: rollout {name} has no {flag}", path.display());
                seen.insert(format!("{name} {flag}"));
            }
        }
    }
    assert!(seen.contains("watch --for") && seen.contains("promote --percent"), "{seen:?}");
}

#[test]
fn the_build_uses_the_rust_and_the_k6_that_are_used_elsewhere() {
    let version = |path: &str, before: &str| {
        let text = read(&path.into());
        let rest = text.split(before).nth(1).unwrap_or_else(|| panic!("{path}: no {before}"));
        rest.split(['\n', '@', ' ']).next().expect("a first part").to_owned()
    };
    assert_eq!(version("Dockerfile", "library/rust:"), version("deploy/cloudbuild/tools.Dockerfile", "library/rust:"));
    let k6 = version("scripts/k6.sh", "\nversion=v");
    assert_eq!(version("cloudbuild.yaml", "grafana/k6:"), k6);
}
