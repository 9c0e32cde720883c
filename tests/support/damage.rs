//! Damaged media, and what a service may answer to it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{self, Session};
use super::media::{Clip, Picture, Shape, Sound};
use super::service::Service;
use super::verify;

/// A session that takes longer hangs.
const HANGS: Duration = Duration::from_secs(120);

/// A small clip in each container.
pub fn clips() -> Vec<Clip> {
    let clip = |shape, video, audio| Clip {
        shape,
        video: Some(video),
        audio: Some(audio),
        frames: 24,
        gop: 8,
        width: 64,
        height: 36,
        ..Clip::default()
    };
    vec![
        Clip { b_frames: 2, ..clip(Shape::FragmentedMp4, Picture::H264, Sound::Aac) },
        Clip { b_frames: 2, ..clip(Shape::FaststartMp4, Picture::H264, Sound::Aac) },
        clip(Shape::Webm, Picture::Vp8, Sound::Opus),
        Clip { b_frames: 2, ..clip(Shape::Ts, Picture::H264, Sound::Aac) },
    ]
}

/// `media` with some of its bits turned over; the same for the same seed.
pub fn flipped(media: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize
    };
    let mut media = media.to_vec();
    for _ in 0..1 + random() % 4 {
        let at = random() % media.len();
        media[at] ^= 1 << (random() % 8);
    }
    media
}

/// The codes of SPECIFICATION.md's list, with their close codes and statuses.
pub struct Codes(BTreeMap<String, (Option<u16>, Option<u16>)>);

impl Codes {
    pub fn read() -> Self {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/SPECIFICATION.md")).expect("it is there");
        let row = |line: &str| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let code = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
            let number = |cell: &str| cell.parse().ok();
            (cells.len() == 4).then(|| (code.to_owned(), (number(cells[1]), number(cells[2]))))
        };
        Self(page.lines().filter_map(row).collect())
    }

    /// Fails where a code is not in the list, or is the service's own fault.
    fn no_fault(&self, label: &str, code: &str) {
        let numbers = self.0.get(code).unwrap_or_else(|| panic!("{label}: {code} is not in SPECIFICATION.md"));
        let fault = numbers.0 == Some(4500) || numbers.1 == Some(500);
        assert!(!fault, "{label}: {code} is a fault of the service");
    }

    /// What must hold of any session, whatever was sent.
    pub fn check(&self, label: &str, session: &Session) {
        let of_receipts = session.receipts.iter().filter_map(|receipt| receipt["error"]["code"].as_str());
        let codes: Vec<&str> = session.error_codes().into_iter().chain(of_receipts).collect();
        codes.iter().for_each(|code| self.no_fault(label, code));
        let fatal = session.errors.iter().find(|error| error["fatal"] == true);
        let expected = match fatal {
            None => Some(1000),
            Some(error) => self.0[error["code"].as_str().expect("a code")].0,
        };
        assert_eq!(Some(session.close_code()), expected, "{label}: {codes:?}");
        // Each segment has one receipt, and each receipt one of three outcomes.
        for receipt in &session.receipts {
            let failed = receipt["outcome"] == "failed";
            assert!(failed || receipt["outcome"] == "ok" || receipt["outcome"] == "degraded", "{label}: {receipt}");
            assert_eq!(failed, !receipt["error"].is_null(), "{label}: {receipt}");
        }
        if let Some(done) = &session.done {
            assert_eq!(done["segments"], session.receipts.len(), "{label}");
        }
    }

    /// The same over HTTP: never a fault, and what is refused is refused by a code of the list.
    pub fn check_http(&self, label: &str, (status, _, body): &(u16, String, Vec<u8>)) {
        if *status == 200 {
            return;
        }
        let problem: Value = serde_json::from_slice(body).unwrap_or_else(|error| panic!("{label}: {status}: {error}"));
        let code = problem["code"].as_str().unwrap_or_else(|| panic!("{label}: {problem}"));
        self.no_fault(label, code);
        assert_eq!(self.0[code].1, Some(*status), "{label}: {code}");
    }
}

/// One session of damaged media, copied and transcoded.
pub async fn session(service: &Service, label: &str, media: Vec<u8>) -> Session {
    let mut outputs = verify::outputs(&["copy+copy", "h264+aac"]);
    outputs[1]["video"]["preset"] = json!("ultrafast");
    let start = json!({"segment_ms": 200, "outputs": outputs});
    let session = client::stream(service.listen, start, media, 20_000);
    let ended = tokio::time::timeout(HANGS, session).await;
    ended.unwrap_or_else(|_| panic!("{label}: it hangs\n{}\n{}", service.get_ops("/metrics").1, service.log()))
}
