//! A cloud for tests: the Admin API of Cloud Run with a service whose traffic changes only for who knows its etag, the
//! metadata server that gives the token for it, and a Prometheus that answers as it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

pub const SERVICE: &str = "projects/test/locations/here/services/segmill";
/// What the metadata server gives, and the APIs ask for.
const TOKEN: &str = "ya29.a-token-that-nobody-may-see";
/// Asked this often, an operation is over.
const LOOKS: usize = 2;

/// The cloud. It ends with the test's runtime.
#[derive(Clone)]
pub struct Cloud {
    pub address: SocketAddr,
    state: Arc<Mutex<Inside>>,
}

#[derive(Default)]
pub struct Inside {
    pub traffic: Vec<Value>,
    pub annotations: BTreeMap<String, Value>,
    pub latest: String,
    /// Image digests of revisions.
    pub images: BTreeMap<String, String>,
    pub version: u64,
    /// What happens to the next requests that begin with this, in order.
    pub faults: VecDeque<(&'static str, Fault)>,
    /// Changes that were taken.
    pub patches: Vec<Value>,
    /// All requests, as `GET /v2/…`.
    pub asked: Vec<String>,
    operations: BTreeMap<String, usize>,
    /// What is true of a revision since when: part of an expression, and the revision.
    pub bad: Vec<(&'static str, &'static str, u64)>,
    /// How many segments each revision is said to have made.
    pub segments: f64,
    pub prometheus_down: bool,
    /// The keys of whoever signs what is pushed.
    pub jwks: Value,
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    Status(u16),
    /// An answer that never ends.
    Endless,
    Garbage,
    /// Somebody else changes the service before it.
    Overtaken,
    /// It is done, and nobody is told.
    Unanswered,
    /// Taken, and then it fails.
    Fails,
}

impl Cloud {
    /// With a service all of whose traffic is revision `a`'s, and a latest one, `b`.
    pub async fn start() -> Self {
        let images = [("a", "a"), ("b", "b"), ("c", "b"), ("d", "d")];
        let inside = Inside {
            traffic: vec![
                json!({"type": REVISION, "revision": "a", "percent": 100}),
                json!({"type": REVISION, "revision": "b", "tag": "next"}),
            ],
            latest: "b".into(),
            images: images
                .map(|(revision, image)| (revision.to_owned(), format!("sha256:{}", image.repeat(64))))
                .into(),
            annotations: [("kept".to_owned(), json!("as it is"))].into(),
            segments: 5000.0,
            ..Inside::default()
        };
        let state = Arc::new(Mutex::new(inside));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cloud = Self { address, state };
        let router = Router::new()
            .route("/computeMetadata/v1/instance/service-accounts/default/token", get(token))
            .route("/v2/{*name}", get(read).patch(patch))
            .route("/api/v1/query_range", post(query))
            .route("/jwks", get(async |State(cloud): State<Cloud>| axum::Json(cloud.inside().jwks.clone())))
            .with_state(cloud.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        cloud
    }

    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.state.lock().expect("nobody panics with it")
    }

    /// The shares of the traffic.
    pub fn shares(&self) -> BTreeMap<String, u64> {
        let inside = self.inside();
        let shares = inside
            .traffic
            .iter()
            .filter_map(|target| Some((target["revision"].as_str()?, target["percent"].as_u64()?)));
        shares.filter(|(_, percent)| *percent > 0).map(|(revision, percent)| (revision.to_owned(), percent)).collect()
    }

    /// What the program has noted.
    pub fn note(&self) -> Value {
        let inside = self.inside();
        let text = inside.annotations.get("segmill.dev/rollout").and_then(Value::as_str).unwrap_or("null");
        serde_json::from_str(text).expect("the note is JSON")
    }

    pub fn change(&self, change: impl FnOnce(&mut Inside)) {
        let mut inside = self.inside();
        change(&mut inside);
        inside.version += 1;
    }

    pub fn token() -> &'static str {
        TOKEN
    }
}

const REVISION: &str = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION";

impl Inside {
    fn etag(&self) -> String {
        format!("\"v{}\"", self.version)
    }

    fn service(&self) -> Value {
        json!({
            "name": SERVICE, "etag": self.etag(), "annotations": self.annotations, "traffic": self.traffic,
            "latestReadyRevision": format!("{SERVICE}/revisions/{}", self.latest),
            "template": {"containers": [{"image": "an image that must not be sent back"}]},
        })
    }

    fn fault(&mut self, request: &str) -> Option<Fault> {
        let at = self.faults.iter().position(|(begins, _)| request.starts_with(begins))?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }
}

fn refused(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, axum::Json(json!({"error": {"code": status.as_u16(), "message": message, "status": "X"}}))).into_response()
}

fn broken(fault: Fault) -> Option<Response> {
    match fault {
        Fault::Status(status) => Some(refused(status, "as told")),
        Fault::Garbage => Some("<html>no JSON</html>".into_response()),
        Fault::Endless => {
            let pieces = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 65536])));
            Some(axum::body::Body::from_stream(pieces).into_response())
        }
        Fault::Overtaken | Fault::Unanswered | Fault::Fails => None,
    }
}

async fn token(State(cloud): State<Cloud>, headers: HeaderMap) -> Response {
    cloud.inside().asked.push("GET token".into());
    assert_eq!(headers["metadata-flavor"], "Google");
    axum::Json(json!({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"})).into_response()
}

fn authorized(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}"))
}

async fn read(State(cloud): State<Cloud>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    if !authorized(&headers) {
        return refused(401, "no token");
    }
    let mut inside = cloud.inside();
    let request = format!("GET {name}");
    inside.asked.push(request.clone());
    if let Some(response) = inside.fault(&request).and_then(broken) {
        return response;
    }
    if name == SERVICE {
        return axum::Json(inside.service()).into_response();
    }
    if let Some(image) = name.strip_prefix(&format!("{SERVICE}/revisions/")).and_then(|name| inside.images.get(name)) {
        let containers =
            json!([{"name": "segmill", "image": format!("r/segmill@{image}"), "ports": [{"containerPort": 8080}]}]);
        return axum::Json(json!({"containers": containers})).into_response();
    }
    match inside.operations.get_mut(&name) {
        Some(looks) if *looks == usize::MAX => {
            let error = json!({"code": 9, "message": "the revision is not ready"});
            axum::Json(json!({"name": name, "done": true, "error": error})).into_response()
        }
        Some(looks) => {
            *looks += 1;
            let done = *looks >= LOOKS;
            axum::Json(json!({"name": name, "done": done})).into_response()
        }
        None => refused(404, "there is no such thing"),
    }
}

async fn patch(
    State(cloud): State<Cloud>,
    Path(name): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !authorized(&headers) {
        return refused(401, "no token");
    }
    assert_eq!(name, SERVICE);
    assert_eq!(query.get("updateMask").map(String::as_str), Some("traffic,annotations"), "and nothing else");
    let wanted: Value = serde_json::from_slice(&body).expect("JSON");
    let mut inside = cloud.inside();
    inside.asked.push(format!("PATCH {name}"));
    let fault = inside.fault("PATCH");
    if let Some(response) = fault.and_then(broken) {
        return response;
    }
    if fault == Some(Fault::Overtaken) {
        inside.version += 1;
    }
    if wanted["etag"] != json!(inside.etag()) {
        return refused(409, "ABORTED: the etag is of another version");
    }
    let operation = format!("projects/test/locations/here/operations/{}", inside.version);
    if fault == Some(Fault::Fails) {
        inside.operations.insert(operation.clone(), usize::MAX);
        return axum::Json(json!({"name": operation})).into_response();
    }
    inside.traffic = wanted["traffic"].as_array().expect("targets").clone();
    inside.annotations = serde_json::from_value(wanted["annotations"].clone()).expect("annotations");
    inside.version += 1;
    inside.patches.push(wanted);
    if fault == Some(Fault::Unanswered) {
        return broken(Fault::Garbage).expect("an answer");
    }
    inside.operations.insert(operation.clone(), 0);
    axum::Json(json!({"name": operation})).into_response()
}

/// Each expression gives what is bad by it, for as long as it is.
async fn query(
    State(cloud): State<Cloud>,
    headers: HeaderMap,
    axum::Form(form): axum::Form<BTreeMap<String, String>>,
) -> Response {
    if !authorized(&headers) {
        return refused(401, "no token");
    }
    let inside = cloud.inside();
    if inside.prometheus_down {
        return refused(503, "down");
    }
    let number = |name: &str| form[name].parse::<u64>().expect("a number");
    let (start, end, step) = (number("start"), number("end"), number("step"));
    let matrix = |result: Vec<Value>| {
        axum::Json(json!({"status": "success", "data": {"resultType": "matrix", "result": result}}))
    };
    if form["query"].starts_with("sum(increase(segmill_segments_total") {
        let value = json!([[end, inside.segments.to_string()]]);
        return matrix(vec![json!({"metric": {}, "values": value})]).into_response();
    }
    let bad = inside.bad.iter().filter(|(part, ..)| form["query"].contains(part));
    let series = bad.filter_map(|(_, revision, since)| {
        let values: Vec<_> =
            (start..=end).step_by(step as usize).filter(|at| at >= since).map(|at| json!([at, "1"])).collect();
        let metric = json!({"service_name": "segmill", "revision_name": revision});
        (!values.is_empty()).then(|| json!({"metric": metric, "values": values}))
    });
    matrix(series.collect()).into_response()
}
