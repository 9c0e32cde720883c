//! Hours of media through `segmill push` while the services hand the session over every minute: nothing is lost, nothing
//! comes twice, and no process grows. Not part of `cargo test`: `make soak`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::service::Service;
use crate::support::{barcode, media};
use serde_json::Value;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const RATE: u64 = 10;
const SIZE: (usize, usize) = (160, 90);

/// A setting of the run, from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Pictures with their numbers, as MPEG-TS on its standard output, spread evenly over `wall`.
fn source(frames: u64, wall: Duration) -> (Child, std::thread::JoinHandle<()>) {
    let (size, rate) = (format!("{}x{}", SIZE.0, SIZE.1), RATE.to_string());
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size, "-r", &rate])
        .args(["-i", "pipe:0", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-shortest"])
        .args("-c:v libx264 -preset ultrafast -crf 28 -g 20 -bf 2 -c:a aac -b:a 64k -f mpegts pipe:1".split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffmpeg is installed");
    let mut pictures = ffmpeg.stdin.take().expect("piped");
    let begun = Instant::now();
    let feeding = std::thread::spawn(move || {
        for n in 0..frames {
            // The pace of the media, not a wait for anything.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep((wall.mul_f64(n as f64 / frames as f64)).saturating_sub(begun.elapsed()));
            pictures.write_all(&barcode::picture(n as u16, SIZE.0, SIZE.1)).expect("ffmpeg reads");
        }
    });
    (ffmpeg, feeding)
}

/// The most memory that a process has had, kilobytes.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Where each output has come to, and how often a connection followed another.
#[derive(Default)]
struct Seen {
    next: BTreeMap<String, (i64, u64)>,
    receipts: u64,
    frames: u64,
    segments: BTreeMap<String, Vec<Value>>,
}

impl Seen {
    fn take(&mut self, message: Value) {
        match message["type"].as_str() {
            Some("segment") => {
                let of_output =
                    self.segments.entry(message["output"].as_str().expect("a name").to_owned()).or_default();
                // What came without its receipt comes again.
                of_output.retain(|known| known["seq"] != message["seq"]);
                of_output.push(message);
            }
            Some("receipt") => {
                self.receipts += 1;
                assert_eq!((&message["seq"], &message["outcome"]), (&self.receipts.into(), &"ok".into()));
                self.frames += message["frames_in"].as_u64().expect("a number");
                for (name, segments) in &mut self.segments {
                    for segment in segments.drain(..) {
                        let number = |field: &str| segment[field].as_i64().expect("a number");
                        let next = self.next.entry(name.clone()).or_insert((number("start"), 0));
                        assert_eq!(number("start"), next.0, "{name} goes on where it was in segment {}", self.receipts);
                        *next = (number("start") + number("duration"), next.1 + 1);
                        assert!(self.receipts == 1 || segment["discontinuity"] == false, "{segment}");
                    }
                }
            }
            Some("moved") => println!("moved after segment {}", self.receipts),
            _ => {}
        }
    }
}

/// The numbers of all pictures of an output, read from its files a few at a time.
fn check_pictures(folder: &Path, frames: u64) {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("an output").map(|file| file.expect("a file").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "m4s"));
    files.sort();
    let init = std::fs::read(folder.join("init-1.mp4")).expect("an init");
    let mut expected = 0;
    for files in files.chunks(50) {
        let media = files.iter().flat_map(|file| std::fs::read(file).expect("a segment"));
        let whole: Vec<u8> = init.iter().copied().chain(media).collect();
        for (_, number) in media::decode_barcodes(&whole) {
            assert_eq!(u64::from(number), expected % 65_536, "in {}", folder.display());
            expected += 1;
        }
    }
    assert_eq!(expected, frames, "{}", folder.display());
}

#[test]
fn hours_of_media_pass_through_sessions_of_a_minute() {
    let (media_s, wall_s) = (setting("SOAK_MEDIA_S", 3 * 3600), setting("SOAK_WALL_S", 900));
    let limit = format!("{}s", setting("SOAK_SESSION_LIMIT_S", 60));
    let flags = ["--workers", "2", "--resume-key", KEY, "--session-limit", &limit];
    let services = [Service::start(&flags), Service::start(&flags)];
    let urls = services.iter().map(|service| format!("ws://{}", service.listen)).collect::<Vec<_>>().join(",");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let outputs = r#"[{"name":"c","video":{"codec":"copy"},"audio":{"codec":"copy"}},
                      {"name":"v","video":{"codec":"h264"}},{"name":"a","audio":{"codec":"aac"}}]"#;
    let frames = media_s * RATE;
    let (mut ffmpeg, feeding) = source(frames, Duration::from_secs(wall_s));
    let mut push = Command::new(env!("CARGO_BIN_EXE_segmill"))
        .args(["push", "-", "--json", "--outputs", outputs, "--to", &urls, "--out"])
        .arg(folder.path())
        .stdin(ffmpeg.stdout.take().expect("piped"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (mut seen, mut summary, mut pushed) = (Seen::default(), Value::Null, 0);
    for line in BufReader::new(push.stdout.take().expect("piped")).lines() {
        let message: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        if message["type"] == "receipt" {
            pushed = most_memory(push.id());
        }
        if message["type"] == "summary" {
            summary = message.clone();
        }
        seen.take(message);
    }
    assert!(push.wait().expect("it ends").success());
    feeding.join().expect("all is fed");
    assert!(ffmpeg.wait().expect("it ends").success());
    println!("{summary}");
    let served = services.each_ref().map(|service| most_memory(service.pid()));
    println!("most memory, kB: services {served:?}, push {pushed}");
    assert_eq!(seen.frames, frames);
    assert_eq!(summary["complete"], true);
    assert!(summary["reconnects"]["session_limit"].as_u64().is_some_and(|times| times > 0), "{summary}");
    for name in ["c", "v"] {
        check_pictures(&folder.path().join(name), frames);
    }
}
