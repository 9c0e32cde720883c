//! What comes with a request before anyone is let in, and the keys that an issuer publishes: a token is found or refused,
//! keys are read or refused, never a panic. The first byte chooses.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;
use segmill::config::VerifyingKeys;
use segmill::server::auth::bearer;

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = segmill_fuzz::split(data) else { return };
    segmill_fuzz::bounded(bytes.len(), || match choice % 3 {
        0 => headers(bytes),
        1 => drop(VerifyingKeys::published(bytes)),
        _ => drop(std::str::from_utf8(bytes).map(VerifyingKeys::read)),
    });
});

/// A line each: where an even byte begins it, of `Authorization`, else of the subprotocols.
fn headers(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((which, value)) = line.split_first() else { continue };
        let name = if which % 2 == 0 { "authorization" } else { "sec-websocket-protocol" };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    if let Ok(Some(token)) = bearer::token(&headers) {
        assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','), "{token}");
    }
    if let Ok(uri) = Uri::try_from(bytes) {
        bearer::in_url(&uri);
    }
}
