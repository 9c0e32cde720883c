//! Finds out that the release that this instance is of was taken back: then its sessions are better off elsewhere. A
//! rollback moves new connections only, and a session may last for an hour.
//!
//! Nothing that goes wrong here harms a session: it is logged, counted, and asked again.

use std::sync::Arc;

use tokio::time::sleep;

use crate::cloud::run::Run;
use crate::cloud::{self, Api, Tokens, jittered};
use crate::config;
use crate::rollout::release::{is_retired, shares};
use crate::telemetry::Metrics;

/// Asks what became of one revision.
pub struct Watcher {
    run: Run,
    revision: String,
    config: config::Retirement,
    metrics: Metrics,
}

impl Watcher {
    /// None where nobody is to be asked.
    ///
    /// # Errors
    /// The system's roots can't be read.
    pub fn new(config: &config::Retirement, metrics: Metrics) -> std::io::Result<Option<Self>> {
        let (Some(service), Some(revision)) = (config.service.clone(), config.revision.clone()) else {
            return Ok(None);
        };
        let tokens = Arc::new(Tokens::new(config.credentials.clone(), &config.metadata_url)?);
        let run = Run::new(Api::new(&config.url, tokens)?, service);
        Ok(Some(Self { run, revision, config: config.clone(), metrics }))
    }

    /// Waits until the revision was taken back.
    pub async fn retired(&self) {
        self.until(|service| is_retired(service, &self.revision)).await;
    }

    /// Waits until it has traffic again.
    pub async fn wanted_again(&self) {
        self.until(|service| shares(service).contains_key(&self.revision)).await;
    }

    async fn until(&self, is_so: impl Fn(&cloud::run::Service) -> bool) {
        let mut failing = false;
        loop {
            sleep(jittered(self.config.every)).await;
            let service = self.run.service().await;
            self.metrics.release_asked(service.is_ok());
            match service {
                Ok(service) if is_so(&service) => return,
                Ok(_) => failing = false,
                Err(error) if failing => {
                    tracing::debug!(%error, "whether this revision was taken back is still not known")
                }
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "whether this revision was taken back is not known");
                }
            }
        }
    }
}
