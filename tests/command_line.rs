//! The binary as people and scripts start it: exit codes, and what `push` leaves behind.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::media::{self, Clip, Shape};
use crate::support::service::Service;
use tempfile::TempDir;

fn segmill(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segmill"));
    command.args(arguments).env_remove("RUST_BACKTRACE");
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

#[test]
fn a_bad_setting_stops_the_start_with_64() {
    /// Arguments, a variable, and what the complaint names.
    type Case = (&'static [&'static str], Option<(&'static str, &'static str)>, &'static str);
    let cases: [Case; 5] = [
        (&["serve", "--workers", "0"], None, "--workers"),
        (&["serve", "--wrokers", "1"], None, "--wrokers"),
        (&["serve"], Some(("SEGMILL_WROKERS", "1")), "SEGMILL_WROKERS"),
        (&["serve"], Some(("SEGMILL_SEGMENT_MS", "2s")), "--segment-ms"),
        (&["push"], None, "FILE"),
    ];
    for (arguments, variable, named) in cases {
        let output = run(segmill(arguments).envs(variable));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {told}");
        assert!(told.contains(named), "{told}");
    }
}

#[test]
fn push_without_a_service_starts_its_own_and_leaves_hls_that_ffmpeg_reads_without_a_word() {
    let folder = TempDir::new().expect("a temporary folder");
    let clip = Clip { shape: Shape::Mp4, b_frames: 2, ..Clip::default() };
    let outputs = r#"[{"name":"v","video":{"codec":"h264","height":90}},{"name":"c","video":{"codec":"copy"}},
                      {"name":"a","audio":{"codec":"aac"}}]"#;
    let path = clip.path();
    let out = folder.path().to_str().expect("a plain path");
    let output = run(&mut segmill(&["push", path.to_str().expect("a plain path"), "--out", out, "--outputs", outputs]));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    for playlist in ["master.m3u8", "v/media.m3u8", "c/media.m3u8", "a/media.m3u8"] {
        let warnings = warnings_of(&folder.path().join(playlist));
        assert!(warnings.is_empty(), "{playlist}: {warnings}");
    }
    for name in ["v", "c"] {
        let pictures = media::decode_barcodes_of(&folder.path().join(name).join("media.m3u8"));
        let numbers: Vec<u16> = pictures.into_iter().map(|(_, number)| number).collect();
        assert_eq!(numbers, (0..clip.frames).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn push_says_by_its_exit_code_what_went_wrong() {
    let folder = TempDir::new().expect("a temporary folder");
    let garbage = folder.path().join("garbage");
    std::fs::write(&garbage, "this is no media".repeat(10_000)).expect("a temporary file");
    let garbage = garbage.to_str().expect("a plain path");
    let refused = run(&mut segmill(&["push", garbage]));
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unsupported_container"));
    let nobody = run(&mut segmill(&["push", garbage, "--to", "ws://127.0.0.1:9/v1/stream"]));
    assert_eq!(nobody.status.code(), Some(4));
}

fn warnings_of(playlist: &Path) -> String {
    let arguments = ["-v", "warning", "-nostdin", "-i"];
    let output = Command::new("ffmpeg").args(arguments).arg(playlist).args(["-map", "0", "-f", "null", "-"]).output();
    let output = output.expect("ffmpeg is installed");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn health_says_whether_a_service_is_there() {
    let service = Service::start(&["--workers", "1"]);
    let ops = service.ops.to_string();
    let asked = |more: &[&str]| run(segmill(&["health", "--ops", &ops]).args(more)).status.code();
    assert_eq!((asked(&[]), asked(&["--ready"])), (Some(0), Some(0)));
    service.kill();
    assert_eq!(asked(&[]), Some(1));
}
