//! Tokens of sessions that were broken off: without the key all are forged, and with it anything is an answer, never a
//! panic. The first byte chooses.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use libfuzzer_sys::fuzz_target;
use segmill::config::Config;
use segmill::media::demux::{Demuxer, State};
use segmill::protocol::{ResumeFrom, Start};
use segmill::session::{Settings, Tokens, Wanted};
use sha2::Sha256;

const KEY: &[u8] = b"a key of thirty-two bytes or more";
const VERSION: u8 = 1;

static SETTINGS: LazyLock<Settings> =
    LazyLock::new(|| Settings::new(&Config::embedded(&[]).expect("the defaults are good")));

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = segmill_fuzz::split(data) else { return };
    LazyLock::force(&SETTINGS);
    segmill_fuzz::bounded(bytes.len(), || match choice % 3 {
        0 => unsigned(bytes),
        1 => signed(bytes),
        _ => state(bytes),
    });
});

fn unsigned(bytes: &[u8]) {
    let as_text = String::from_utf8_lossy(bytes).into_owned();
    for token in [as_text, URL_SAFE_NO_PAD.encode(bytes)] {
        assert_eq!(code(token).as_deref(), Some("resume_forged"));
    }
}

fn signed(payload: &[u8]) {
    let mut signer = Hmac::<Sha256>::new_from_slice(KEY).expect("any length is a key");
    signer.update(&[VERSION]);
    signer.update(payload);
    let token = [&[VERSION][..], &signer.finalize().into_bytes(), payload].concat();
    // It may even be a good one.
    assert_ne!(code(URL_SAFE_NO_PAD.encode(token)).as_deref(), Some("resume_forged"));
}

/// What a signed token holds of a demuxer: it goes on by it, or says that it can't.
fn state(bytes: &[u8]) {
    let Ok((state, rest)) = postcard::take_from_bytes::<State>(bytes) else { return };
    let spool = Box::new(segmill_fuzz::Memory::default());
    let Ok(mut demuxer) = Demuxer::resume(&state, segmill_fuzz::LIMITS, spool) else { return };
    if demuxer.push(rest.to_vec().into()).is_ok() {
        demuxer.finish();
        while let Ok(Some(_)) = demuxer.poll() {}
    }
}

/// Why the token was refused.
fn code(token: String) -> Option<String> {
    let start = Start { resume: Some(ResumeFrom { token }), ..Start::default() };
    let tokens = Tokens::new(vec![KEY.to_vec()], Duration::from_secs(60));
    Wanted::stream(start, "session", &SETTINGS, &tokens).err().map(|fatal| fatal.code.to_owned())
}
