//! Ten thousand damaged streams of every container: never a fault of the service, never a hang, each answer a code of
//! SPECIFICATION.md's list. Not part of `cargo test`: `make chaos`. CHAOS_FLIPS sets other seeds, `from..to`.

use std::sync::Arc;

use crate::support::damage::{self, Codes};
use crate::support::service::Service;
use futures_util::StreamExt;

/// Seeds, of each of which one stream of every container is made.
const SEEDS: std::ops::Range<u64> = 0..2500;
const AT_ONCE: usize = 6;

fn seeds() -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("CHAOS_FLIPS") else { return SEEDS };
    let (from, to) = range.split_once("..").expect("from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_turned_over_and_streams_cut_off_are_never_a_fault_of_the_service() {
    let service = Arc::new(Service::start(&["--workers", "2", "--worker-start-timeout", "60s"]));
    let codes = Arc::new(Codes::read());
    let mut inputs = Vec::new();
    for clip in damage::clips() {
        let media: Arc<[u8]> = clip.bytes().into();
        for seed in seeds() {
            inputs.push((format!("{:?}, seed {seed}", clip.shape), media.clone(), Damage::Flips(seed)));
        }
        for percent in 0..100 {
            inputs.push((format!("{:?}, {percent} %", clip.shape), media.clone(), Damage::Cut(percent)));
        }
    }
    let streams = inputs.len();
    let mut running = futures_util::stream::iter(inputs.into_iter().enumerate().map(|(n, (label, media, damage))| {
        let (service, codes) = (service.clone(), codes.clone());
        tokio::spawn(async move {
            let media = damage.done(&media);
            match n % 20 {
                7 => http(&service, &codes, label, "/v1/transcode?preset=ultrafast", media).await,
                13 => http(&service, &codes, label, "/v1/segments", media).await,
                _ => {
                    let session = damage::session(&service, &label, media).await;
                    codes.check(&label, &session);
                    session.close_code()
                }
            }
        })
    }))
    .buffer_unordered(AT_ONCE);
    let mut answers = std::collections::BTreeMap::new();
    while let Some(answer) = running.next().await {
        *answers.entry(answer.expect("what is said above")).or_insert(0u32) += 1;
    }
    println!("{streams} streams; closes and statuses: {answers:?}");
    assert_eq!(service.metric("segmill_health_consecutive_failures"), Some(0.0));
}

enum Damage {
    Flips(u64),
    /// What is left, percent.
    Cut(usize),
}

impl Damage {
    fn done(&self, media: &[u8]) -> Vec<u8> {
        match self {
            Self::Flips(seed) => damage::flipped(media, *seed),
            Self::Cut(percent) => media[..media.len() * percent / 100].to_vec(),
        }
    }
}

async fn http(service: &Arc<Service>, codes: &Codes, label: String, path: &'static str, media: Vec<u8>) -> u16 {
    let service = service.clone();
    let asked = tokio::task::spawn_blocking(move || service.http("POST", path, &[], &media));
    let answer = asked.await.expect("asking does not panic");
    codes.check_http(&label, &answer);
    answer.0
}
