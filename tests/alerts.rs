//! What is watched: the alerts of deploy/alerts and the dashboard of deploy/grafana, by a real Prometheus and its
//! promtool, against the metrics of a real service.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::client;
use crate::support::media::Clip;
use crate::support::prometheus::{Prometheus, tool};
use crate::support::service::Service;
use crate::support::verify;
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const RULES: &str = "deploy/alerts/rules.yaml";
const SCRAPE: &str = "deploy/local/prometheus.yml";
const DASHBOARD: &str = "deploy/grafana/segmill.json";
const RUNBOOK: &str = "docs/operations.md";
/// Prometheus is asked again until then.
const STUCK: Duration = Duration::from_secs(120);

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn tests_of_rules() -> Vec<PathBuf> {
    let files = std::fs::read_dir("deploy/alerts/tests").expect("the tests of the rules");
    files.map(|file| file.expect("a file").path()).collect()
}

#[test]
fn alerts_fire_of_the_revision_that_is_bad_and_of_no_other() {
    let succeeds = |arguments: &[&str], files: &[PathBuf]| {
        let output = tool("promtool").args(arguments).args(files).output().expect("promtool runs");
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&told));
    };
    succeeds(&["check", "rules", "--lint-fatal"], &[RULES.into()]);
    succeeds(&["check", "config"], &[SCRAPE.into()]);
    let files = tests_of_rules();
    assert!(files.len() > 3, "{files:?}");
    succeeds(&["test", "rules"], &files);
}

/// A real one, as deploy/local has it, that scrapes a service and evaluates the rules every second.
fn watching(service: &Service) -> Prometheus {
    let replaced = |text: String, from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replace(from, to)
    };
    let rules = replaced(read(RULES), "interval: 30s", "interval: 1s");
    let scrape = replaced(read(SCRAPE), "../alerts/rules.yaml", "rules.yaml");
    let scrape = replaced(scrape, "scrape_interval: 5s", "scrape_interval: 1s");
    let scrape = replaced(scrape, "127.0.0.1:9090", &service.ops.to_string());
    Prometheus::start(&scrape, &[("rules.yaml", &rules)])
}

fn alerts(prometheus: &Prometheus) -> Vec<Value> {
    let groups = prometheus.ask("rules", &[])["groups"].as_array().cloned().unwrap_or_default();
    groups.iter().flat_map(|group| group["rules"].as_array().cloned().expect("rules")).collect()
}

/// The label names of all series that a query gives, once it gives any.
fn labels(prometheus: &Prometheus, query: &str) -> BTreeSet<String> {
    let result = until(query, || {
        let answer = prometheus.ask("query", &[("query", query)]);
        answer["result"].as_array().filter(|series| !series.is_empty()).cloned()
    });
    let names = |series: &Value| series["metric"].as_object().expect("labels").keys().cloned().collect::<Vec<_>>();
    result.iter().flat_map(names).collect()
}

/// What comes of asking again and again.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < STUCK, "there is still nothing: {what}");
        std::thread::yield_now(); // Each question is a process of its own.
    }
}

/// Each selector of a query, as it is written.
fn selectors(query: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = ["segmill_", "process_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        let name = rest[at..].find(|c| !word(c)).map_or(rest.len(), |length| at + length);
        let end =
            if rest[name..].starts_with('{') { name + rest[name..].find('}').expect("a brace") + 1 } else { name };
        found.push(rest[at..end].to_owned());
        rest = &rest[end..];
    }
    found
}

/// The labels that a query sums or joins by.
fn grouped(query: &str) -> BTreeSet<String> {
    let clauses = ["by (", "on ("].into_iter().flat_map(|word| query.split(word).skip(1));
    let names = clauses.flat_map(|clause| clause.split(')').next().unwrap_or_default().split(','));
    names.map(|name| name.trim().to_owned()).collect()
}

/// Panics where a query names a metric, or a value of a label, or a label, that the service does not have.
fn names_what_is_there(prometheus: &Prometheus, place: &str, query: &str) {
    let selectors = selectors(query);
    assert!(!selectors.is_empty(), "{place} asks for no metric: {query}");
    let labels: BTreeSet<String> = selectors.iter().flat_map(|selector| labels(prometheus, selector)).collect();
    let missing: Vec<_> = grouped(query).into_iter().filter(|label| !labels.contains(label)).collect();
    assert!(missing.is_empty(), "{place}: {missing:?} are no labels of {selectors:?}");
}

/// A panel's query as Grafana sends it.
fn filled_in(query: &str, variables: &[Value]) -> String {
    let value = |variable: &Value| match variable["type"].as_str() {
        Some("query") => variable["allValue"].as_str().map(str::to_owned),
        _ => variable["current"]["value"].as_str().map(str::to_owned),
    };
    let mut query = query.replace("$__rate_interval", "1m");
    let mut by_length: Vec<_> = variables.iter().filter(|variable| variable["type"] != "datasource").collect();
    by_length.sort_by_key(|variable| std::cmp::Reverse(variable["name"].as_str().map(str::len)));
    for variable in by_length {
        let name = variable["name"].as_str().expect("a name");
        query = query.replace(&format!("${name}"), &value(variable).unwrap_or_else(|| panic!("{name} has no value")));
    }
    assert!(!query.contains('$'), "a variable is not known: {query}");
    query
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alerts_and_panels_ask_for_is_what_a_service_tells() {
    let service = Service::start(&["--workers", "1", "--idle-timeout", "1h"]);
    let clip = Clip::default();
    let start = json!({"segment_ms": 500, "outputs": verify::outputs(&["h264@90+aac"])});
    let session = client::stream(service.listen, start.clone(), clip.bytes(), 20_000).await;
    verify::session(&clip, &["h264@90+aac"], &session);
    let refused = client::stream(service.listen, start, b"this is no media at all".repeat(10), 100).await;
    assert_eq!(refused.close_code(), 4415, "{:?}", refused.errors);
    // What a session costs is told while there is one.
    let mut open = client::connect(service.listen).await;
    let start = json!({"type": "start", "outputs": verify::outputs(&["h264"])}).to_string();
    open.send(Message::text(start)).await.expect("the message is taken");

    let prometheus = watching(&service);
    let healthy = |alert: &&Value| alert["health"] == "ok";
    let alerts = until("all rules are evaluated", || {
        let alerts = alerts(&prometheus);
        assert!(alerts.iter().all(|alert| alert["health"] != "err"), "{alerts:#?}");
        (!alerts.is_empty() && alerts.iter().filter(healthy).count() == alerts.len()).then_some(alerts)
    });
    for alert in &alerts {
        let name = alert["name"].as_str().expect("a name");
        // Pending is as may be: the processors may be busy with other tests.
        assert_ne!(alert["state"], "firing", "{name}");
        names_what_is_there(&prometheus, name, alert["query"].as_str().expect("a query"));
    }

    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let query = filled_in(variable["definition"].as_str().expect("a query"), variables);
        let (selector, label) = query
            .strip_prefix("label_values(")
            .and_then(|query| query.strip_suffix(')'))
            .and_then(|query| query.rsplit_once(", "))
            .expect("label_values(selector, label)");
        let values = prometheus.ask(&format!("label/{label}/values"), &[("match[]", selector)]);
        assert_eq!(values.as_array().map(Vec::len), Some(1), "{query}: {values}");
    }
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut asked = 0;
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().expect("queries") {
            let query = filled_in(target["expr"].as_str().expect("a query"), variables);
            names_what_is_there(&prometheus, title, &query);
            let labels = labels(&prometheus, &query);
            let legend = target["legendFormat"].as_str().expect("a legend");
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                assert!(labels.contains(label), "{title}: {label} is none of {labels:?}");
            }
            assert!(labels.contains("revision_name"), "{title} is not by revision");
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    drop(open);
}

#[test]
fn every_alert_is_tested_and_explained() {
    let rules = read(RULES);
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let tests: String = tests_of_rules().iter().map(|file| read(file.to_str().expect("a plain path"))).collect();
    let page = read(RUNBOOK);
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### Segmill")).collect();
    assert_eq!(headings, alerts.iter().filter_map(|alert| alert.strip_prefix("Segmill")).collect(), "{RUNBOOK}");
    for (alert, rule) in alerts.iter().zip(rules.split("- alert: ").skip(1)) {
        let has = |line: &str| rule.lines().any(|of_rule| of_rule.trim().starts_with(line));
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test has {alert} fire");
        assert!(
            has("labels: {severity: critical, action: rollback}") || has("labels: {severity: warning, action: warn}"),
            "{alert}"
        );
        assert!(has("for: ") && has("summary: "), "{alert}");
        assert!(has(&format!("runbook: {RUNBOOK}#{}", alert.to_lowercase())), "{alert}");
    }
}
