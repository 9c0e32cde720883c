//! What `segmill rollout status` tells.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::rollout::judge::Verdict;
use crate::rollout::release::{Release, shares};
use crate::rollout::steward::{Error, Steward, View};

/// One look at a release.
pub struct Status {
    service: String,
    view: View,
    /// None where there is no release that could be judged; an error where Prometheus tells nothing.
    verdict: Option<Result<(Verdict, Option<u64>), String>>,
    now: u64,
}

/// What the release is at, and how it does.
pub async fn status(steward: &Steward, now: u64) -> Result<Status, Error> {
    let view = steward.view(None).await?;
    let verdict = match &view.release {
        Ok(release) => Some(judged(steward, release, now).await.map_err(|error| error.to_string())),
        Err(_) => None,
    };
    Ok(Status { service: steward.run.service_name().to_string(), view, verdict, now })
}

async fn judged(steward: &Steward, release: &Release, now: u64) -> Result<(Verdict, Option<u64>), Error> {
    let canary = release.canary.as_ref();
    let verdict = steward.verdict(canary.map(|canary| canary.revision.as_str()), &release.stable, now).await?;
    let segments = match canary.and_then(|canary| Some((canary, canary.since?))) {
        Some((canary, since)) => Some(steward.segments(&canary.revision, since, now).await?),
        None => None,
    };
    Ok((verdict, segments))
}

impl Status {
    pub fn json(&self) -> Value {
        let release = match &self.view.release {
            Ok(Release { stable, canary }) => {
                let canary = canary.as_ref().map(|canary| {
                    let age = canary.since.map(|since| self.now.saturating_sub(since));
                    json!({"revision": canary.revision, "percent": canary.percent, "age_s": age})
                });
                json!({"stable": stable, "canary": canary})
            }
            Err(unclear) => json!({"unclear": unclear.to_string()}),
        };
        let verdict = match &self.verdict {
            Some(Ok((verdict, segments))) => json!({
                "bad": verdict.bad, "both_bad": verdict.as_bad, "pending": verdict.pending, "warned": verdict.warned,
                "stable_bad": verdict.stable_bad, "segments": segments,
            }),
            Some(Err(error)) => json!({"error": error}),
            None => Value::Null,
        };
        json!({
            "service": self.service, "traffic": shares(&self.view.service), "latest": self.view.service.latest(),
            "release": release, "verdict": verdict, "frozen": self.view.note.frozen,
        })
    }

    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.service);
        // A String takes whatever is written to it.
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<10} {value}");
        };
        match &self.view.release {
            Ok(Release { stable, canary }) => {
                line("stable", stable.clone());
                if let Some(canary) = canary {
                    let age =
                        canary.since.map_or("an unknown time".to_owned(), |since| span(self.now.saturating_sub(since)));
                    line("canary", format!("{} {} % for {age}", canary.revision, canary.percent));
                }
            }
            Err(unclear) => line("unclear", unclear.to_string()),
        }
        line("latest", self.view.service.latest().to_owned());
        match &self.verdict {
            Some(Ok((verdict, segments))) => {
                let said = [
                    ("bad", &verdict.bad),
                    ("both bad", &verdict.as_bad),
                    ("pending", &verdict.pending),
                    ("warned", &verdict.warned),
                    ("stable bad", &verdict.stable_bad),
                ];
                for (name, rules) in said.into_iter().filter(|(_, rules)| !rules.is_empty()) {
                    line(name, rules.join(", "));
                }
                if let Some(segments) = segments {
                    line("segments", segments.to_string());
                }
            }
            Some(Err(error)) => line("verdict", error.clone()),
            None => {}
        }
        for frozen in &self.view.note.frozen {
            let image = frozen.digest.as_deref().unwrap_or("this revision alone");
            let ago = span(self.now.saturating_sub(frozen.at));
            line("frozen", format!("{} ({image}) {ago} ago: {}", frozen.revision, frozen.reason.escape_debug()));
        }
        text
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}
