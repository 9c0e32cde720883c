//! Prometheus' HTTP API: PromQL over a span of time, also as Managed Service for Prometheus answers it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Method;
use serde::Deserialize;

use super::api::{Api, Body, Error};

/// One series of an answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Series {
    #[serde(rename = "metric")]
    pub labels: BTreeMap<String, String>,
    /// When, in seconds since 1970, and what.
    #[serde(deserialize_with = "points")]
    pub values: Vec<(f64, f64)>,
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

fn points<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<(f64, f64)>, D::Error> {
    let points = Vec::<(f64, String)>::deserialize(deserializer)?;
    let number = |text: &str| text.parse::<f64>().map_err(|_| serde::de::Error::custom("a value is no number"));
    points.into_iter().map(|(at, text)| Ok((at, number(&text)?))).collect()
}

/// The API.
pub struct Prometheus(Api);

impl Prometheus {
    pub fn new(api: Api) -> Self {
        Self(api)
    }

    /// What `query` gives at `end`, and every `step` before it, as far back as `start`; seconds since 1970.
    pub async fn range(&self, query: &str, (start, end): (u64, u64), step: Duration) -> Result<Vec<Series>, Error> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", query)
            .append_pair("start", &start.to_string())
            .append_pair("end", &end.to_string())
            .append_pair("step", &step.as_secs().max(1).to_string())
            .finish();
        let answer: Answer = self.0.ask(Method::POST, "/api/v1/query_range", Body::Form(form.into())).await?;
        Ok(answer.data.result)
    }
}
