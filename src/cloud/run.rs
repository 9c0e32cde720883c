//! Cloud Run's Admin API, version 2: a service's traffic and annotations, and the image of a revision.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Method;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::api::{Api, Body, Error};
pub use crate::config::{ServiceName, is_name};

/// How long a change of the traffic may take.
const OPERATION: Duration = Duration::from_secs(180);
/// The wait before it is first asked whether a change is over; half as much again each time.
const FIRST_LOOK: Duration = Duration::from_millis(300);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// The last part of a resource's name.
fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// Of a service what roll-outs read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Of this version of it: a change that names it is taken only while nobody has changed it since.
    pub etag: String,
    pub annotations: BTreeMap<String, String>,
    pub traffic: Vec<Target>,
    latest_ready_revision: String,
}

impl Service {
    /// The revision that was made last and can serve; empty where there is none.
    pub fn latest(&self) -> &str {
        short(&self.latest_ready_revision)
    }
}

/// A part of the traffic, or a name for a revision's own URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Target {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub percent: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tag: String,
}

fn is_zero(percent: &u32) -> bool {
    *percent == 0
}

impl Target {
    const LATEST: &str = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST";
    const REVISION: &str = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION";

    /// So much of the traffic for this revision.
    pub fn share(revision: &str, percent: u32) -> Self {
        Self { kind: Self::REVISION.into(), revision: revision.into(), percent, tag: String::new() }
    }

    /// The same without its share of the traffic, where it has a tag; whatever revision is the latest stays the latest.
    pub fn tag_alone(&self) -> Option<Self> {
        (!self.tag.is_empty()).then(|| Self { percent: 0, ..self.clone() })
    }

    /// The revision that it leads to, where `latest` is the latest.
    pub fn leads_to<'a>(&'a self, latest: &'a str) -> &'a str {
        if self.kind == Self::LATEST { latest } else { short(&self.revision) }
    }
}

/// Of a revision what roll-outs read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Revision {
    containers: Vec<Container>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    image: String,
    ports: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    name: String,
    image_digest: String,
}

impl Revision {
    /// `sha256:…` of the image that takes the requests; None where the API doesn't tell it.
    pub fn digest(&self) -> Option<String> {
        // Beside it may be others, such as the one that gathers metrics: without a port.
        let main = self.containers.iter().position(|container| !container.ports.is_empty()).unwrap_or(0);
        let container = self.containers.get(main)?;
        let status = self.container_statuses.iter().find(|status| status.name == container.name);
        let alone = if self.containers.len() == 1 { self.container_statuses.first() } else { None };
        let resolved = status.or(alone).and_then(|status| digest_in(&status.image_digest));
        resolved.or_else(|| digest_in(&container.image))
    }
}

fn digest_in(image: &str) -> Option<String> {
    let (_, hash) = image.rsplit_once("sha256:")?;
    let whole = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| format!("sha256:{}", hash.to_ascii_lowercase()))
}

/// What is changed of a service; of all else nothing.
#[derive(Debug, Serialize)]
pub struct Patch<'a> {
    pub etag: &'a str,
    pub annotations: &'a BTreeMap<String, String>,
    pub traffic: &'a [Target],
}

/// A change that was taken and may not be over.
#[derive(Debug, Deserialize)]
pub struct Operation {
    name: String,
    #[serde(default)]
    done: bool,
    #[serde(default)]
    error: Option<Status>,
}

#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
}

/// The API, for one service.
pub struct Run {
    api: Api,
    service: ServiceName,
}

impl Run {
    pub fn new(api: Api, service: ServiceName) -> Self {
        Self { api, service }
    }

    pub fn service_name(&self) -> &ServiceName {
        &self.service
    }

    pub async fn service(&self) -> Result<Service, Error> {
        self.api.ask(Method::GET, &format!("/v2/{}", self.service), Body::None).await
    }

    /// `name`: without the service's.
    pub async fn revision(&self, name: &str) -> Result<Revision, Error> {
        self.api.ask(Method::GET, &format!("/v2/{}/revisions/{name}", self.service), Body::None).await
    }

    /// Changes traffic and annotations, and nothing else; so no revision comes of it. Sent once: where no answer comes,
    /// the etag tells at the next look whether it was taken.
    pub async fn patch(&self, patch: &Patch<'_>) -> Result<Operation, Error> {
        // The strings and numbers of a Patch are JSON.
        let body = serde_json::to_vec(patch).unwrap_or_default();
        let path = format!("/v2/{}?updateMask=traffic,annotations", self.service);
        self.api.send(Method::PATCH, &path, Body::Json(body.into())).await
    }

    /// Waits until a change is over.
    pub async fn wait(&self, mut operation: Operation) -> Result<(), Error> {
        let begun = Instant::now();
        let mut look = FIRST_LOOK;
        loop {
            if let Some(error) = operation.error {
                return Err(Error::Failed(error.message.escape_debug().take(300).collect()));
            }
            if operation.done {
                return Ok(());
            }
            if begun.elapsed() > OPERATION {
                return Err(Error::Unfinished(OPERATION));
            }
            if !operation.name.split('/').all(|part| is_name(&part.to_ascii_lowercase().replace('_', "-"))) {
                return Err(Error::Failed("its operation has no name that can be asked for".to_owned()));
            }
            sleep(super::jittered(look)).await;
            look = (look * 3 / 2).min(LONGEST_LOOK);
            operation = self.api.ask(Method::GET, &format!("/v2/{}", operation.name), Body::None).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_digest_is_that_of_the_container_that_takes_requests() {
        let (one, other) = ("a".repeat(64), "b".repeat(64));
        let revision = |value| serde_json::from_value::<Revision>(value).unwrap().digest();
        let digest = Some(format!("sha256:{one}"));
        let image = format!("r.example/i@sha256:{one}");
        assert_eq!(revision(json!({"containers": [{"image": image}]})), digest);
        let beside = json!({"containers": [
            {"name": "collector", "image": format!("c@sha256:{other}")},
            {"name": "segmill", "image": "r.example/i:v1", "ports": [{"containerPort": 8080}]}],
            "containerStatuses": [{"name": "collector", "imageDigest": format!("sha256:{other}")},
            {"name": "segmill", "imageDigest": format!("r.example/i@sha256:{one}")}]});
        assert_eq!(revision(beside), digest);
        let unnamed = json!({"containers": [{"image": "i:v1"}], "containerStatuses": [{"imageDigest": image}]});
        assert_eq!(revision(unnamed), digest);
        for unknown in
            [json!({}), json!({"containers": [{"image": "i:v1"}]}), json!({"containers": [{"image": "i@sha256:ab"}]})]
        {
            assert_eq!(revision(unknown), None);
        }
    }
}
