//! Decisions as laws: whatever was done before, by us or by hand.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::rollout::judge::{State, judge};
use crate::rollout::rules::{self, Action};

const HOUR: u64 = 3600;

fn schedule() -> Schedule {
    let hours = |hours| Duration::from_secs(hours * HOUR);
    Schedule::new(vec![(10, hours(2)), (50, hours(24)), (100, hours(48))]).unwrap()
}

/// Revisions a to e; d has the image of c.
fn digest(revision: &str) -> String {
    format!("sha256:{}", if revision == "d" { "c" } else { revision }.repeat(64))
}

fn service(traffic: serde_json::Value, latest: &str) -> Service {
    let service = json!({"etag": "1", "traffic": traffic,
        "latestReadyRevision": format!("projects/p/locations/l/services/s/revisions/{latest}")});
    serde_json::from_value(service).unwrap()
}

fn facts(revision: &str, now: u64) -> Facts {
    let verdict = Verdict::default();
    Facts { digest: Some(digest(revision)), verdict, segments: 5000, least: 1000, now }
}

/// What Cloud Run would make of a change.
fn apply(service: &mut Service, change: &Change) {
    service.traffic = crate::rollout::release::targets(service, &change.shares);
    service.annotations = change.note.write(&service.annotations);
}

struct Scene {
    service: Service,
    now: u64,
}

impl Scene {
    fn new() -> Self {
        Self {
            service: service(json!([{"revision": "a", "percent": 100}, {"revision": "b", "tag": "next"}]), "b"),
            now: 1_000_000,
        }
    }

    fn note(&self) -> Note {
        Note::read(&self.service.annotations).unwrap()
    }

    fn promote(
        &mut self,
        revision: &str,
        percent: u32,
        also: impl FnOnce(&mut Promotion, &mut Facts),
    ) -> Result<bool, Refusal> {
        let note = self.note();
        let release = Release::read(&self.service, &note, Some(revision))?;
        let mut want = Promotion { revision: revision.to_owned(), percent, early: false, thaw: false };
        let mut facts = facts(revision, self.now);
        also(&mut want, &mut facts);
        let change = promote(&release, &note, &schedule(), &want, &facts)?;
        change.iter().for_each(|change| apply(&mut self.service, change));
        Ok(change.is_some())
    }

    fn roll_back(&mut self, revision: Option<&str>, to: Option<&str>) -> Result<bool, Refusal> {
        let note = self.note();
        let want = Rollback { revision: revision.map(str::to_owned), to: to.map(str::to_owned), reason: "bad".into() };
        let Some((bad, to)) = aim(&self.service, &note, &want)? else { return Ok(false) };
        let digests = (digest(&bad), digest(&to));
        let change = roll_back(&self.service, &note, &want, (Some(&digests.0), Some(&digests.1)), self.now)?;
        change.iter().for_each(|change| apply(&mut self.service, change));
        Ok(change.is_some())
    }

    fn shares(&self) -> Vec<(String, u32)> {
        shares(&self.service).into_iter().collect()
    }
}

fn has(scene: &Scene, expected: &[(&str, u32)]) {
    let expected: Vec<_> = expected.iter().map(|(revision, percent)| ((*revision).to_owned(), *percent)).collect();
    assert_eq!(scene.shares(), expected);
}

#[test]
fn a_release_goes_up_by_its_steps_and_each_step_lasts() {
    let mut scene = Scene::new();
    assert_eq!(scene.promote("b", 50, |_, _| {}), Err(Refusal::NotNext(10)));
    assert_eq!(scene.promote("b", 20, |_, _| {}), Err(Refusal::NoStep(20)));
    assert_eq!(scene.promote("b", 10, |_, _| {}), Ok(true));
    has(&scene, &[("a", 90), ("b", 10)]);
    assert_eq!(scene.promote("b", 10, |_, _| {}), Ok(false), "it has that already");
    scene.now += 2 * HOUR - 60;
    let left = Duration::from_secs(60);
    assert_eq!(scene.promote("b", 50, |_, _| {}), Err(Refusal::TooEarly { percent: 10, left }));
    scene.now += 60;
    let few = Refusal::TooFew { made: 999, least: 1000 };
    assert_eq!(scene.promote("b", 50, |_, facts| facts.segments = 999), Err(few));
    assert_eq!(scene.promote("c", 10, |_, _| {}), Err(Refusal::Another("b".into())));
    assert_eq!(scene.promote("b", 50, |_, _| {}), Ok(true));
    assert_eq!(scene.promote("b", 10, |_, _| {}), Err(Refusal::Backwards { has: 50 }));
    assert!(matches!(scene.promote("b", 100, |_, _| {}), Err(Refusal::TooEarly { percent: 50, .. })));
    assert_eq!(scene.promote("b", 100, |want, _| want.early = true), Ok(true));
    has(&scene, &[("b", 100)]);
    assert_eq!(scene.service.traffic.len(), 2, "the tag stays: {:?}", scene.service.traffic);
    let release = Release::read(&scene.service, &scene.note(), None).unwrap();
    assert_eq!(release.stable, "a", "it can be gone back to");
    assert!(schedule().is_on_trial(&release, scene.now) && !schedule().is_on_trial(&release, scene.now + 48 * HOUR));
    assert!(matches!(scene.promote("c", 10, |_, _| {}), Err(Refusal::TooEarly { percent: 100, .. })));
    scene.now += 48 * HOUR;
    assert_eq!(scene.promote("c", 10, |_, _| {}), Ok(true));
    has(&scene, &[("b", 90), ("c", 10)]);
}

#[test]
fn what_was_taken_back_is_not_promoted_again_under_any_name() {
    let mut scene = Scene::new();
    scene.promote("c", 10, |_, _| {}).unwrap();
    assert_eq!(scene.roll_back(None, None), Ok(true));
    has(&scene, &[("a", 100)]);
    assert_eq!(scene.roll_back(None, None), Ok(false));
    assert_eq!(scene.roll_back(Some("c"), None), Ok(false));
    for revision in ["c", "d"] {
        let refused = scene.promote(revision, 10, |_, _| {});
        assert_eq!(refused, Err(Refusal::Frozen { revision: "c".into(), reason: "bad".into() }), "{revision}");
    }
    assert_eq!(scene.promote("e", 10, |_, facts| facts.digest = None), Err(Refusal::NoDigest("e".into())));
    assert_eq!(scene.promote("b", 10, |_, _| {}), Ok(true), "another image");
    scene.roll_back(None, None).unwrap();
    assert_eq!(scene.promote("d", 10, |want, _| want.thaw = true), Ok(true), "who says so");
    let frozen: Vec<_> = scene.note().frozen.into_iter().map(|frozen| frozen.revision).collect();
    assert_eq!(frozen, ["b"], "the image is forgotten, by whatever name, and no other");
}

#[test]
fn an_image_that_the_stable_revision_has_as_well_is_not_frozen() {
    let mut scene = Scene::new();
    scene.service = service(json!([{"revision": "c", "percent": 100}]), "d");
    scene.promote("d", 10, |_, _| {}).unwrap();
    assert_eq!(scene.roll_back(None, None), Ok(true));
    assert_eq!(scene.note().frozen[0].digest, None);
    assert!(matches!(scene.promote("d", 10, |_, _| {}), Err(Refusal::Frozen { .. })));
}

#[test]
fn after_the_last_step_it_goes_back_to_the_revision_before() {
    let mut scene = Scene::new();
    for (percent, hours) in [(10, 2), (50, 24), (100, 48)] {
        scene.promote("b", percent, |_, _| {}).unwrap();
        scene.now += hours * HOUR;
    }
    assert_eq!(scene.roll_back(None, None), Ok(true));
    has(&scene, &[("a", 100)]);
}

#[test]
fn what_somebody_has_done_by_hand_counts() {
    let mut scene = Scene::new();
    scene.promote("b", 10, |_, _| {}).unwrap();
    scene.service.traffic = service(json!([{"revision": "a", "percent": 100}]), "b").traffic;
    assert_eq!(Release::read(&scene.service, &scene.note(), None).unwrap().canary, None, "taken back");
    let by_hand = service(json!([{"revision": "b", "percent": 30}, {"revision": "e", "percent": 70}]), "b");
    scene.service.traffic = by_hand.traffic;
    let unclear = Refusal::Unclear(Unclear::Which("b".into(), "e".into()));
    assert_eq!(scene.roll_back(None, None), Err(unclear), "which of them is bad can't be guessed");
    assert!(matches!(scene.promote("b", 50, |_, _| {}), Err(Refusal::UnknownAge(30))));
    assert_eq!(scene.roll_back(Some("b"), None), Ok(true));
    has(&scene, &[("e", 100)]);
    let three =
        json!([{"revision": "a", "percent": 30}, {"revision": "c", "percent": 30}, {"revision": "e", "percent": 40}]);
    scene.service.traffic = service(three, "b").traffic;
    assert_eq!(scene.roll_back(Some("c"), None), Err(Refusal::Unclear(Unclear::Several(3))));
    assert_eq!(scene.roll_back(Some("c"), Some("b")), Err(Refusal::ToFrozen("b".into())));
    assert_eq!(scene.roll_back(Some("c"), Some("e")), Ok(true));
    has(&scene, &[("e", 100)]);
    assert_eq!(scene.roll_back(Some("e"), None), Err(Refusal::NowhereTo("e".into())));
}

#[test]
fn the_latest_revision_is_the_one_that_is_promoted_and_is_named_in_the_split() {
    let latest = json!([{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}]);
    let scene = service(latest, "a");
    let release = Release::read(&scene, &Note::default(), None).unwrap();
    assert_eq!(release.stable, "a");
    assert_eq!(complete(&scene, &release, &schedule(), None, None), Err(Refusal::NothingNew("a".into())));
    let mut scene = Scene { service: service(json!([{"revision": "a", "percent": 100}]), "b"), now: 1 };
    let release = Release::read(&scene.service, &scene.note(), None).unwrap();
    assert_eq!(complete(&scene.service, &release, &schedule(), None, None), Ok(("b".into(), 10)));
    scene.promote("b", 10, |_, _| {}).unwrap();
    let release = Release::read(&scene.service, &scene.note(), None).unwrap();
    assert_eq!(complete(&scene.service, &release, &schedule(), None, None), Ok(("b".into(), 50)));
    assert!(scene.service.traffic.iter().all(|target| !target.revision.is_empty()));
}

#[test]
fn what_fires_holds_a_promotion_back() {
    let named = vec!["Rule".to_owned()];
    for (verdict, undecided) in [
        (Verdict { bad: named.clone(), ..Verdict::default() }, false),
        (Verdict { as_bad: named.clone(), ..Verdict::default() }, true),
        (Verdict { pending: named.clone(), ..Verdict::default() }, true),
        (Verdict { warned: named.clone(), ..Verdict::default() }, false),
        (Verdict { stable_bad: named.clone(), ..Verdict::default() }, false),
    ] {
        let refused = Scene::new().promote("b", 10, |_, facts| facts.verdict = verdict.clone()).unwrap_err();
        assert!(refused.to_string().contains("Rule"), "{refused}");
        assert_eq!(refused.is_undecided(), undecided, "{refused}");
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Promote(usize, usize, bool, bool),
    RollBack(Option<usize>, Option<usize>),
    Hand(Vec<(usize, u32)>),
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let revision = 0usize..5;
    prop_oneof![
        4 => (revision.clone(), 0usize..3, any::<bool>(), any::<bool>()).prop_map(|(r, p, early, thaw)| Deed::Promote(r, p, early, thaw)),
        3 => (proptest::option::of(revision.clone()), proptest::option::of(revision.clone())).prop_map(|(r, to)| Deed::RollBack(r, to)),
        1 => (revision.clone(), revision, 1u32..100).prop_map(|(a, b, p)| if a == b { Deed::Hand(vec![(a, 100)]) } else { Deed::Hand(vec![(a, p), (b, 100 - p)]) }),
        2 => (0u64..60).prop_map(|hours| Deed::Wait(hours * HOUR)),
    ]
}

proptest! {
    #[test]
    fn traffic_is_whole_over_named_revisions_and_the_same_twice_changes_nothing(deeds in proptest::collection::vec(deed(), 1..40)) {
        let names = ["a", "b", "c", "d", "e"];
        let mut scene = Scene::new();
        for deed in deeds {
            match deed {
                Deed::Wait(s) => scene.now += s,
                Deed::Hand(split) => {
                    let split: Vec<_> = split.iter().map(|(r, p)| json!({"revision": names[*r], "percent": p})).collect();
                    scene.service.traffic = service(json!(split), "b").traffic;
                }
                Deed::Promote(revision, step, early, thaw) => {
                    let frozen = scene.note().frozen(names[revision], Some(&digest(names[revision]))).is_some();
                    let percent = [10, 50, 100][step];
                    let set = |want: &mut Promotion, _: &mut Facts| (want.early, want.thaw) = (early, thaw);
                    if scene.promote(names[revision], percent, set) == Ok(true) {
                        prop_assert!(!frozen || thaw);
                        let has = shares(&scene.service).get(names[revision]).copied();
                        prop_assert_eq!(has, Some(percent));
                        prop_assert_eq!(scene.promote(names[revision], percent, set), Ok(false));
                    }
                }
                Deed::RollBack(revision, to) => {
                    let bad = Release::read(&scene.service, &scene.note(), revision.map(|r| names[r])).ok().and_then(|release| release.canary);
                    let bad = revision.map(|r| names[r].to_owned()).or(bad.map(|canary| canary.revision));
                    let (revision, to) = (revision.map(|r| names[r]), to.map(|r| names[r]));
                    if scene.roll_back(revision, to) == Ok(true) {
                        let bad = bad.expect("somebody was meant");
                        prop_assert!(!shares(&scene.service).contains_key(&bad));
                        prop_assert!(scene.note().frozen(&bad, None).is_some());
                        prop_assert_eq!(scene.roll_back(Some(&bad), to), Ok(false));
                    }
                }
            }
            let split: Vec<_> = scene.service.traffic.iter().filter(|target| target.percent > 0).collect();
            prop_assert!((1..=2).contains(&split.len()));
            prop_assert_eq!(split.iter().map(|target| target.percent).sum::<u32>(), 100);
            prop_assert!(split.iter().all(|target| !target.revision.is_empty()));
        }
    }

    #[test]
    fn a_canary_is_never_bad_by_what_the_stable_revision_has_too(states in proptest::collection::vec((any::<bool>(), 0u8..3, 0u8..3), 0..8)) {
        let state = |n| match n { 0 => None, 1 => Some(State::Pending), _ => Some(State::Firing) };
        let rules: Vec<_> = states.iter().enumerate().map(|(n, (rollback, ..))| rules::Rule {
            name: n.to_string(), expression: String::new(), hold: Duration::ZERO, every: Duration::from_secs(30),
            action: if *rollback { Action::Rollback } else { Action::Warn }, summary: String::new(),
        }).collect();
        let said: Vec<_> = rules.iter().zip(&states).map(|(rule, (_, canary, stable))| {
            let of = [("canary", state(*canary)), ("stable", state(*stable))];
            (rule, of.into_iter().filter_map(|(name, state)| Some((name.to_owned(), state?))).collect())
        }).collect();
        let verdict = judge(&said, Some("canary"), "stable");
        for (n, (rollback, canary, stable)) in states.iter().enumerate() {
            prop_assert_eq!(verdict.bad.contains(&n.to_string()), *rollback && *canary == 2 && *stable == 0);
        }
        prop_assert!(judge(&said, None, "stable").bad.is_empty());
    }
}
