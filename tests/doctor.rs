//! `segmill doctor`: what it finds where all is there, where versions differ, and where a plugin or certificates are missing.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The report, and whether it ended well.
fn doctor(arguments: &[&str], environment: &[(&str, &Path)]) -> (Value, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segmill"));
    command.args(["doctor", "--json", "--worker-start-timeout", "60s"]).args(arguments);
    let output = command.envs(environment.iter().copied()).output().expect("the binary runs");
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code())
}

fn of<'a>(report: &'a Value, part: &str) -> Vec<(&'a str, &'a str, &'a str)> {
    let text = |finding: &'a Value, field: &str| finding[field].as_str().expect("text");
    let findings = report["findings"].as_array().expect("a list").iter().filter(|finding| finding["of"] == part);
    findings.map(|finding| (text(finding, "name"), text(finding, "state"), text(finding, "detail"))).collect()
}

#[test]
fn each_codec_is_counted_and_versions_are_held_against_those_that_are_named() {
    let (report, code) = doctor(&[], &[]);
    assert_eq!((code, &report["well"]), (Some(0), &true.into()), "{report:#}");
    let names = |part: &str| of(&report, part).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    assert_eq!(names("decode"), ["h264", "h265", "vp8", "vp9", "av1", "mpeg2", "aac", "opus", "mp3", "ac3", "eac3"]);
    assert_eq!(names("encode"), ["h264", "h265", "vp9", "av1", "aac", "opus"]);
    assert!(of(&report, "decode").iter().chain(&of(&report, "encode")).all(|finding| finding.1 == "well"));
    assert!(names("sandbox").contains(&"seccomp"));

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("versions");
    let told = |versions: &[(&str, &str, &str)]| -> String {
        versions.iter().map(|(name, _, version)| format!("{name} {version}\n")).collect()
    };
    let versions = of(&report, "versions");
    let hold = |text: String| {
        std::fs::write(&file, text).expect("a file");
        doctor(&["--versions", file.to_str().expect("text")], &[])
    };
    assert_eq!(hold(format!("# pinned\n\n{}", told(&versions))).1, Some(0));
    let (report, code) = hold(told(&versions).replace("x264 ", "x264 9."));
    assert_eq!(code, Some(1));
    let faults: Vec<_> = of(&report, "versions").into_iter().filter(|finding| finding.1 == "fault").collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].0 == "x264" && faults[0].2.contains("has to be 9."), "{faults:?}");
    let (report, code) = hold(format!("{}absent 1.0\n", told(&versions[1..])));
    assert_eq!(code, Some(1));
    let faults = of(&report, "versions").into_iter().filter(|finding| finding.1 == "fault");
    assert_eq!(faults.map(|finding| finding.0).collect::<Vec<_>>(), [versions[0].0, "absent"]);
}

#[test]
fn a_codec_without_its_plugin_is_a_fault() {
    let find = Command::new("pkg-config").args(["--variable=pluginsdir", "gstreamer-1.0"]).output();
    let plugins = String::from_utf8(find.expect("pkg-config is installed").stdout).expect("text");
    let folder = tempfile::tempdir().expect("a folder");
    let some = folder.path().join("plugins");
    std::fs::create_dir(&some).expect("a folder");
    for plugin in std::fs::read_dir(plugins.trim()).expect("GStreamer is installed").flatten() {
        let name = plugin.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(".so") && !name.contains("x265")) {
            std::os::unix::fs::symlink(plugin.path(), some.join(name)).expect("a link");
        }
    }
    let registry = folder.path().join("registry");
    let (report, code) = doctor(&[], &[("GST_PLUGIN_SYSTEM_PATH_1_0", &some), ("GST_REGISTRY_1_0", &registry)]);
    assert_eq!((code, &report["well"]), (Some(1), &false.into()));
    let faults = |part: &str| {
        let faults = of(&report, part).into_iter().filter(|finding| finding.1 == "fault");
        faults.map(|finding| finding.0).collect::<Vec<_>>()
    };
    assert_eq!((faults("decode"), faults("encode")), (vec![], vec!["h265"]));
}

#[test]
fn without_certificates_an_https_server_that_is_to_be_asked_is_a_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("nowhere");
    let none = [("SSL_CERT_FILE", nowhere.as_path()), ("SSL_CERT_DIR", nowhere.as_path())];
    let keys = |url| ["--auth-audience", "a", "--auth-issuer", "i", "--auth-jwks-url", url];
    let run = ["--run-service", "projects/p/locations/l/services/s", "--run-revision", "r"];
    let state = |arguments: &[&str], environment: &[(&str, &Path)]| {
        let (report, code) = doctor(arguments, environment);
        let found = of(&report, "certificates");
        assert_eq!(found.len(), 1, "{report:#}");
        (found[0].1.to_owned(), code)
    };
    assert_eq!(state(&run, &[]), ("well".into(), Some(0)));
    assert_eq!(state(&keys("http://127.0.0.1:9/keys"), &none), ("lacking".into(), Some(0)));
    assert_eq!(state(&keys("https://keys.example/keys"), &none), ("fault".into(), Some(1)));
    assert_eq!(state(&run, &none), ("fault".into(), Some(1)));
}
