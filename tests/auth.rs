//! Who may come in, and who may not: tokens of every kind and every way to forge one, over HTTP and the WebSocket; the
//! keys that an issuer publishes; pages of other origins.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::client::{Session, Socket};
use crate::support::media::{self, Clip, Shape};
use crate::support::service::Service;
use crate::support::tokens::{self, Signer, base64, claims};
use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response};
use tokio_tungstenite::tungstenite::{Error, Message};

/// A service of one worker that asks for tokens signed with these keys.
fn guarded(keys: &str, more: &[&str]) -> Service {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("keys.json");
    std::fs::write(&path, keys).expect("a temporary file");
    let keys = format!("@{}", path.display());
    let flags = [&["--workers", "1", "--auth-keys", &keys], &tokens::FLAGS[..], more].concat();
    Service::start(&flags)
}

/// Status, code and challenge of an HTTP request.
fn asked(service: &Service, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let (status, head, body) = service.http("GET", path, headers, b"");
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let challenge = head.lines().find_map(|line| line.strip_prefix("www-authenticate: ")).unwrap_or_default();
    (status, problem["code"].as_str().unwrap_or_default().to_owned(), challenge.to_owned())
}

/// Opens a WebSocket with these headers, offering these subprotocols.
async fn upgrade(
    to: SocketAddr,
    protocols: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Socket, Response<Option<Vec<u8>>>), Response<Option<Vec<u8>>>> {
    let mut request = format!("ws://{to}/v1/stream").into_client_request().expect("a URL");
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().expect("a header"));
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).expect("a header"));
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok(opened) => Ok(opened),
        Err(Error::Http(response)) => Err(*response),
        Err(error) => panic!("{error}"),
    }
}

fn code(response: &Response<Option<Vec<u8>>>) -> String {
    let body = response.body().as_deref().unwrap_or_default();
    serde_json::from_slice::<Value>(body).unwrap_or_default()["code"].as_str().unwrap_or_default().to_owned()
}

/// One output of half a second of video, over a socket that is open.
async fn converse(socket: Socket, media: Vec<u8>) -> Session {
    let (mut sink, mut stream) = socket.split();
    let outputs = json!([{"name": "v", "video": {"codec": "h264", "height": 90}}]);
    let sending = tokio::spawn(async move {
        sink.send(Message::text(json!({"type": "start", "outputs": outputs}).to_string())).await?;
        sink.send(Message::binary([&[0], media.as_slice()].concat())).await?;
        sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await?;
        Ok::<_, Error>(sink)
    });
    let mut session = Session::default();
    while let Some(Ok(message)) = stream.next().await {
        session.take(message);
    }
    let _ = sending.await.expect("sending does not panic");
    session
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The token with something else in its place: its header, claims or signature.
fn tampered(token: &str, part: usize, with: &str) -> String {
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[part] = with;
    parts.join(".")
}

#[tokio::test]
async fn tokens_of_every_kind_open_the_door_and_nothing_else_does() {
    let kinds = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let signers: Vec<Signer> = kinds.iter().map(|kind| Signer::new(*kind, &format!("{kind:?}-1"))).collect();
    let [shared, rsa, curve, edwards] = signers.as_slice() else { unreachable!() };
    let keys = tokens::set(&[shared, rsa, curve, edwards]).to_string();
    let service = guarded(&keys, &["--auth-leeway", "30s", "--log", "trace"]);
    let good = claims(json!({}));
    let mut shown: Vec<String> = Vec::new();

    for signer in &signers {
        let without_id = signer.sign_with(Header::new(signer.algorithm), &good);
        let two =
            claims(json!({"aud": ["other", "segmill-test"], "exp": tokens::now() - 10, "nbf": tokens::now() + 10}));
        for token in [signer.sign(&good), without_id, signer.sign(&two)] {
            let header = bearer(&token);
            assert_eq!(asked(&service, "/v1/capabilities", &[("Authorization", &header)]).0, 200, "{}", signer.id);
            let opened = upgrade(service.listen, "segmill.v1", &[("authorization", &header)]).await;
            assert!(opened.is_ok(), "{}", signer.id);
            shown.push(token);
        }
    }

    let token = shared.sign(&good);
    let kid = |id: &str| Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::HS256) };
    let by = |secret: &[u8], header: Header| {
        jsonwebtoken::encode(&header, &good, &EncodingKey::from_secret(secret)).expect("it can be signed")
    };
    let none = |name: &str| {
        format!("{}.{}.", base64(json!({"alg": name}).to_string().as_bytes()), base64(good.to_string().as_bytes()))
    };
    let modulus = rsa.jwk["n"].as_str().expect("base64");
    let modulus = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(modulus).expect("base64");
    let flipped = {
        let signature = token.rsplit('.').next().expect("a signature");
        let other = if signature.starts_with('A') { "B" } else { "A" };
        tampered(&token, 2, &format!("{other}{}", &signature[1..]))
    };
    let mallory = base64(claims(json!({"sub": "mallory"})).to_string().as_bytes());
    let mut critical = kid(&shared.id);
    critical.crit = Some(vec!["exp".to_owned()]);
    let without = |name: &str| {
        let mut claims = claims(json!({}));
        claims.as_object_mut().expect("an object").remove(name);
        shared.sign(&claims)
    };
    let with = |more: Value| shared.sign(&claims(more));
    let (now, refused) = (tokens::now(), "unauthorized");
    let cases: Vec<(&str, String, &str)> = vec![
        ("not signed", none("none"), refused),
        ("not signed, in capitals", none("None"), refused),
        ("signed and said not to be", tampered(&token, 0, &base64(br#"{"alg":"none"}"#)), refused),
        ("the RSA key's PEM as a secret", by(rsa.pem.as_bytes(), kid(&rsa.id)), refused),
        (
            "the RSA key's PEM as a secret, without an id",
            by(rsa.pem.as_bytes(), Header::new(Algorithm::HS256)),
            refused,
        ),
        ("the RSA key's modulus as a secret", by(&modulus, kid(&rsa.id)), refused),
        ("the JWK as a secret", by(rsa.jwk.to_string().as_bytes(), kid(&rsa.id)), refused),
        ("another secret", by(&[7; 48], kid(&shared.id)), refused),
        ("an empty secret", by(b"", kid(&shared.id)), refused),
        (
            "an id of another type of key",
            curve.sign_with(Header { kid: Some(rsa.id.clone()), ..Header::new(Algorithm::ES256) }, &good),
            refused,
        ),
        (
            "an id that is not known",
            edwards.sign_with(Header { kid: Some("other".into()), ..Header::new(Algorithm::EdDSA) }, &good),
            refused,
        ),
        ("a hash that is not allowed", by(&[7; 64], Header::new(Algorithm::HS512)), refused),
        ("something critical", shared.sign_with(critical, &good), refused),
        ("other claims under the signature", tampered(&token, 1, &mallory), refused),
        ("another signature", flipped, refused),
        ("no signature", tampered(&token, 2, ""), refused),
        ("expired", with(json!({"exp": now - 60})), "token_expired"),
        ("expired long ago", with(json!({"exp": 0})), "token_expired"),
        ("not yet", with(json!({"nbf": now + 300})), refused),
        ("for others", with(json!({"aud": "other"})), refused),
        ("for nobody", with(json!({"aud": []})), refused),
        ("from others", with(json!({"iss": "https://issuer.example.evil"})), refused),
        ("from several", with(json!({"iss": ["https://issuer.example"]})), refused),
        ("without an end", without("exp"), refused),
        ("with an end that is no number", with(json!({"exp": (now + 600).to_string()})), refused),
        ("with an end before the beginning", with(json!({"exp": -1})), refused),
        ("for nobody in particular", without("aud"), refused),
        ("from nobody", without("iss"), refused),
        ("with a quota misspelt", with(json!({"segmill": {"session": 1}})), refused),
        ("two parts", "a.b".to_owned(), refused),
        ("four parts", format!("{token}.a"), refused),
        ("no parts", "token".to_owned(), refused),
        ("no base64", "a=.b=.c=".to_owned(), refused),
    ];
    for (case, token, code_expected) in &cases {
        let header = bearer(token);
        let (status, code_told, challenge) = asked(&service, "/v1/capabilities", &[("Authorization", &header)]);
        assert_eq!((status, code_told.as_str()), (401, *code_expected), "{case}: {challenge}");
        assert!(challenge.starts_with("Bearer realm=\"segmill\", error=\"invalid_token\""), "{case}: {challenge}");
        let response = upgrade(service.listen, "segmill.v1", &[("authorization", &header)]).await.expect_err(case);
        assert_eq!((response.status().as_u16(), code(&response).as_str()), (401, *code_expected), "{case}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        shown.push(token.clone());
    }
    let rejected = |reason: &str| service.metric(&format!("segmill_sessions_rejected_total{{reason=\"{reason}\"}}"));
    let expired = cases.iter().filter(|case| case.2 == "token_expired").count();
    assert_eq!(rejected("token_expired"), Some(2.0 * expired as f64));
    assert_eq!(rejected("unauthorized"), Some(2.0 * (cases.len() - expired) as f64));
    let (status, _, body) = service.http("POST", "/v1/transcode", &[], &Clip::default().bytes());
    assert_eq!(status, 401, "{}", String::from_utf8_lossy(&body));
    assert_eq!(service.http("POST", "/v1/segments", &[("Authorization", "Basic YTpi")], b"x").0, 401);

    // A claim of a token that was refused, and one of those that were not.
    until("something is logged", || service.log().contains("session ended")).await;
    let log = service.log();
    let secret = shared.jwk["k"].as_str().expect("base64");
    for secret in shown
        .iter()
        .flat_map(|token| token.split('.'))
        .filter(|part| part.len() > 8)
        .chain([secret, "alice", "mallory"])
    {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn how_a_token_may_be_brought_and_what_needs_none() {
    let signer = Signer::new(Algorithm::EdDSA, "1");
    let service = guarded(&signer.pem, &[]);
    let token = signer.sign(&claims(json!({})));
    let header = bearer(&token);
    let offered = format!("segmill.v1, bearer.{token}");

    let clip = Clip { audio: None, frames: 15, ..Clip::default() };
    let by_header = upgrade(service.listen, "segmill.v1", &[("authorization", &header)]).await;
    let by_subprotocol = upgrade(service.listen, &offered, &[("origin", "https://any.example")]).await;
    for (opened, way) in [(by_header, "header"), (by_subprotocol, "subprotocol")] {
        let (socket, response) = opened.unwrap_or_else(|response| panic!("{way}: {}", code(&response)));
        let answers: Vec<_> = response.headers().get_all("sec-websocket-protocol").iter().collect();
        assert_eq!(answers, ["segmill.v1"], "{way}: the token is not sent back");
        let session = converse(socket, clip.bytes()).await;
        assert_eq!(session.close_code(), 1000, "{way}: {:?}", session.errors);
        assert_eq!(media::decode_barcodes(&session.outputs["v"].whole()).len(), 15, "{way}");
    }

    let challenged = |headers: &[(&str, &str)]| asked(&service, "/v1/capabilities", headers);
    let plain = "Bearer realm=\"segmill\"";
    assert_eq!(challenged(&[]), (401, "unauthorized".into(), plain.into()), "no error where nothing was brought");
    assert_eq!(challenged(&[("Authorization", "Basic YTpi")]).0, 401);
    let unreadable = (400, "bad_request".to_owned(), format!("{plain}, error=\"invalid_request\""));
    for headers in [
        vec![("Authorization", header.as_str()), ("Authorization", header.as_str())],
        vec![("Authorization", "Bearer"), ("Accept", "*/*")],
        vec![("Authorization", "Bearer a b")],
        vec![("Authorization", header.as_str()), ("Sec-WebSocket-Protocol", offered.as_str())],
    ] {
        assert_eq!(challenged(&headers), unreadable, "{headers:?}");
    }
    for name in ["access_token", "token"] {
        let path = format!("/v1/capabilities?{name}={token}");
        assert_eq!(asked(&service, &path, &[("Authorization", &header)]), unreadable, "{name}");
    }
    let two = upgrade(service.listen, &format!("{offered}, bearer.{token}"), &[]).await.expect_err("two tokens");
    assert_eq!((two.status().as_u16(), code(&two)), (400, "bad_request".to_owned()));
    let alone = upgrade(service.listen, &format!("bearer.{token}"), &[]).await.expect_err("no subprotocol of ours");
    assert_eq!((alone.status().as_u16(), code(&alone)), (400, "bad_request".to_owned()));

    for (path, expected) in [("/v1/openapi.json", 200), ("/v1/asyncapi.json", 200), ("/v1/other", 404)] {
        assert_eq!(asked(&service, path, &[]).0, expected, "{path}");
    }
    assert_eq!(service.get_ops("/health/ready").0, 200);
    assert!(!service.log().contains(&token[..20]));
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_before_the_upgrade() {
    let signer = Signer::new(Algorithm::HS256, "1");
    let allowed = "https://a.example,http://b.example:8000";
    let service = guarded(&tokens::set(&[&signer]).to_string(), &["--allow-origin", allowed]);
    let header = bearer(&signer.sign(&claims(json!({}))));
    let open = |origin: &'static str| {
        let (listen, header) = (service.listen, header.clone());
        async move { upgrade(listen, "segmill.v1", &[("authorization", &header), ("origin", origin)]).await }
    };
    for origin in ["https://a.example", "http://b.example:8000"] {
        assert!(open(origin).await.is_ok(), "{origin}");
    }
    for origin in ["http://a.example", "https://a.example:444", "https://sub.a.example", "null"] {
        let response = open(origin).await.expect_err(origin);
        assert_eq!((response.status().as_u16(), code(&response)), (403, "forbidden_origin".to_owned()), "{origin}");
        let of_http = asked(&service, "/v1/capabilities", &[("Authorization", &header), ("Origin", origin)]);
        assert_eq!((of_http.0, of_http.1.as_str()), (403, "forbidden_origin"), "{origin}");
    }
    let rejected = service.metric("segmill_sessions_rejected_total{reason=\"forbidden_origin\"}");
    assert_eq!(rejected, Some(8.0));

    let ask = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")];
    let preflight = |origin| service.http("OPTIONS", "/v1/transcode", &[ask[0], ask[1], ("Origin", origin)], b"");
    let (status, head, _) = preflight("https://a.example");
    let head = head.to_ascii_lowercase();
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("access-control-allow-origin: https://a.example\r\n"), "{head}");
    assert!(head.contains("access-control-allow-methods: get,post,put"), "{head}");
    assert!(
        head.lines().any(|line| line.starts_with("access-control-allow-headers") && line.contains("authorization"))
    );
    assert_eq!(preflight("https://c.example").0, 403);
    let (status, head, _) =
        service.http("GET", "/v1/capabilities", &[("Authorization", &header), ("Origin", "https://a.example")], b"");
    assert_eq!(status, 200);
    assert!(head.to_ascii_lowercase().contains("access-control-allow-origin: https://a.example\r\n"), "{head}");

    let open_to_all = Service::start(&["--workers", "1"]);
    let strangers = asked(&open_to_all, "/v1/capabilities", &[("Origin", "https://a.example")]);
    assert_eq!((strangers.0, strangers.1.as_str()), (403, "forbidden_origin"), "no token holds a page back here");
    assert!(upgrade(open_to_all.listen, "segmill.v1", &[("origin", "http://localhost:5173")]).await.is_ok());
    assert!(upgrade(open_to_all.listen, "segmill.v1", &[]).await.is_ok(), "no browser");
}

/// A server that publishes keys, and counts how often they are fetched.
struct Issuer {
    url: String,
    answer: Arc<Mutex<(u16, String)>>,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(status: u16, keys: &Value) -> Self {
        let answer = Arc::new(Mutex::new((status, keys.to_string())));
        let fetches = Arc::new(AtomicUsize::new(0));
        let handler = {
            let (answer, fetches) = (Arc::clone(&answer), Arc::clone(&fetches));
            move || async move {
                fetches.fetch_add(1, Ordering::SeqCst);
                let (status, body) = answer.lock().expect("nobody panics with it").clone();
                (axum::http::StatusCode::from_u16(status).expect("a status"), body)
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
        let router = axum::Router::new().route("/jwks.json", axum::routing::get(handler));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, answer, fetches }
    }

    fn answers(&self, status: u16, keys: &Value) {
        *self.answer.lock().expect("nobody panics with it") = (status, keys.to_string());
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn service(&self, refresh: &str) -> Service {
        let flags = ["--workers", "1", "--auth-jwks-url", &self.url, "--auth-jwks-refresh", refresh];
        Service::start(&[&flags, &tokens::FLAGS[..]].concat())
    }
}

/// Waits for the event itself, with a deadline.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !is_so() {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn published_keys_are_fetched_once_for_a_thousand_unknown_ones_and_outlive_their_issuer() {
    let (old, new) = (Signer::new(Algorithm::ES256, "old"), Signer::new(Algorithm::RS256, "new"));
    let stranger = Signer::new(Algorithm::EdDSA, "stranger");
    let secret = Signer::new(Algorithm::HS256, "secret");
    let good = claims(json!({}));
    let status = |service: &Service, token: &str| {
        let (status, code, _) = asked(service, "/v1/capabilities", &[("Authorization", &bearer(token))]);
        (status, code)
    };
    let refused = (401, "unauthorized".to_owned());

    let issuer = Issuer::start(200, &tokens::set(&[&old, &secret])).await;
    let service = issuer.service("1h");
    until("the keys are there", || service.get_ops("/health/ready").0 == 200).await;
    assert_eq!((status(&service, &old.sign(&good)).0, issuer.fetches()), (200, 1));
    std::thread::scope(|scope| {
        for thread in 0..20 {
            let (service, stranger, good, refused) = (&service, &stranger, &good, &refused);
            scope.spawn(move || {
                for n in 0..50 {
                    let header = Header { kid: Some(format!("{thread}-{n}")), ..Header::new(Algorithm::EdDSA) };
                    assert_eq!(&status(service, &stranger.sign_with(header, good)), refused);
                }
            });
        }
    });
    assert_eq!(issuer.fetches(), 2, "one more for a thousand");
    assert_eq!(status(&service, &secret.sign(&good)), refused, "a secret that is published is none");
    assert_eq!(status(&service, &old.sign(&good)).0, 200);

    let issuer = Issuer::start(500, &json!({})).await;
    let service = issuer.service("1s");
    let ready = service.get_ops("/health/ready");
    assert_eq!((ready.0, ready.1.contains("\"keys\"")), (503, true), "{}", ready.1);
    let (early, head, _) =
        service.http("GET", "/v1/capabilities", &[("Authorization", &bearer(&old.sign(&good)))], b"");
    assert!(early == 503 && head.to_ascii_lowercase().contains("retry-after: "), "{head}");
    issuer.answers(200, &tokens::set(&[&old]));
    until("the keys are there", || service.get_ops("/health/ready").0 == 200).await;
    assert_eq!(status(&service, &old.sign(&good)).0, 200);
    issuer.answers(200, &tokens::set(&[&new]));
    assert_eq!(status(&service, &new.sign(&good)).0, 200, "a new key is taken as it is used");
    assert_eq!(status(&service, &old.sign(&good)), refused, "one that is not published any more is not");
    let failed = || service.metric("segmill_auth_key_fetches_total{outcome=\"failed\"}").unwrap_or_default();
    let before = failed();
    issuer.answers(200, &json!({"keys": "none"}));
    until("a fetch fails", || failed() > before).await;
    assert_eq!(status(&service, &new.sign(&good)).0, 200, "what is known holds while the issuer is away");
    assert_eq!(service.get_ops("/health/ready").0, 200);
}

#[test]
fn a_session_ends_with_its_token_and_push_goes_on_with_the_next() {
    let signer = Signer::new(Algorithm::EdDSA, "1");
    let service = guarded(&signer.pem, &["--auth-leeway", "0"]);
    let folder = TempDir::new().expect("a temporary folder");
    let (file, out) = (folder.path().join("token"), folder.path().join("out"));
    let token = |s: i64| signer.sign(&claims(json!({"exp": tokens::now().cast_signed() + s})));
    let clip = Clip { shape: Shape::Mp4, audio: None, frames: 180, ..Clip::default() };
    let path = clip.path();
    let push = |token: &str| {
        let mut push = std::process::Command::new(env!("CARGO_BIN_EXE_segmill"));
        push.arg("push").arg(&path).args(["--to", &format!("ws://{}", service.listen), "--json", "--real-time"]);
        push.args(["--segment-ms", "500", "--outputs", r#"[{"name":"v","video":{"codec":"h264","height":90}}]"#]);
        push.arg("--out").arg(&out).env("SEGMILL_TOKEN", token);
        push.stdout(Stdio::piped()).stderr(Stdio::piped());
        push
    };

    for (given, code) in [(token(-60), "token_expired"), ("not.a.token".to_owned(), "unauthorized")] {
        let output = push(&given).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(6), "{told}");
        assert!(told.contains(code), "{told}");
        assert!(!told.contains(&given), "{told}");
    }

    std::fs::write(&file, token(4)).expect("a temporary file");
    let mut child = push(&format!("@{}", file.display())).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok);
    let mut messages: Vec<Value> = Vec::new();
    for line in lines.by_ref() {
        let message: Value = serde_json::from_str(&line).expect("JSON");
        if message["type"] == "ready" && messages.is_empty() {
            std::fs::write(&file, token(600)).expect("a temporary file");
        }
        messages.push(message);
    }
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let of = |kind: &str| messages.iter().filter(|message| message["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("moved").iter().map(|moved| &moved["reason"]).collect::<Vec<_>>(), ["token_expired"]);
    assert_eq!(of("ready").len(), 2);
    let pictures = media::decode_barcodes_of(&out.join("v").join("media.m3u8"));
    let numbers: Vec<u16> = pictures.into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (0..clip.frames).collect::<Vec<_>>(), "nothing is lost and nothing twice");
}

#[test]
fn bad_keys_stop_the_start_and_are_not_shown() {
    let folder = TempDir::new().expect("a temporary folder");
    let rsa = Signer::new(Algorithm::RS256, "1");
    let small = json!({"keys": [{"kty": "RSA", "e": "AQAB", "n": base64(&[0x81; 128])}]}).to_string();
    let other = json!({"kty": "EC", "crv": "P-384", "x": base64(&[1; 48]), "y": base64(&[1; 48])}).to_string();
    let nowhere = json!({"kty": "EC", "crv": "P-256", "x": base64(&[1; 32]), "y": base64(&[1; 32])}).to_string();
    let short = json!({"kty": "oct", "k": base64(b"a secret of 24 bytes....")}).to_string();
    let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n-----END PRIVATE KEY-----\n";
    let whose = ["--auth-issuer", "i", "--auth-audience", "a"];
    let keys = |text: &str| {
        let path = folder.path().join(format!("keys-{}", text.len()));
        std::fs::write(&path, text).expect("a temporary file");
        format!("@{}", path.display())
    };
    let cases: Vec<(Vec<&str>, String, &str)> = vec![
        (whose.to_vec(), keys(&small), "key 1 is no RSA key of 2048"),
        (whose.to_vec(), keys(&other), "key 1 is of a type or curve"),
        (whose.to_vec(), keys(&nowhere), "key 1 is no valid key"),
        (whose.to_vec(), keys(&short), "key 1 is shorter than 32"),
        (whose.to_vec(), keys(private), "key 1 is a private key"),
        (whose.to_vec(), keys("c2VjcmV0IHRleHQgb2YgYSBrZXk="), "neither a JWKS nor PEM"),
        (whose.to_vec(), keys("{\"keys\": []}"), "there is no key"),
        (whose.to_vec(), "@/there/is/none".to_owned(), "/there/is/none"),
        (vec![], keys(&rsa.pem), "--auth-audience and --auth-issuer must be set"),
        ([&whose[..], &["--auth-jwks-url", "https://issuer.example/jwks"]].concat(), keys(&rsa.pem), "one of"),
    ];
    let refused = |flags: &[&str], says: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_segmill"))
            .args(["serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"])
            .args(flags)
            .output()
            .expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{flags:?}: {told}");
        assert!(told.contains(says), "{flags:?}: {told}");
        for secret in ["a secret of 24", &base64(b"a secret of 24 bytes....")[..10], "MC4CAQ", "c2VjcmV0"] {
            assert!(!told.contains(secret), "{told}");
        }
    };
    for (flags, keys, says) in &cases {
        refused(&[flags.as_slice(), &["--auth-keys", keys]].concat(), says);
    }
    refused(&[&whose[..], &["--auth-jwks-url", "http://issuer.example/jwks"]].concat(), "use https");
    refused(&["--auth-issuer", "i"], "of no use");
    refused(&["--allow-origin", "https://a.example/path"], "HOST[:PORT] and nothing more");
}

#[tokio::test]
async fn a_token_s_owner_has_so_many_sessions_and_no_more() {
    let signer = Signer::new(Algorithm::HS256, "1");
    let service = guarded(&tokens::set(&[&signer]).to_string(), &["--quota-sessions", "2"]);
    let of = |owner: &str, more: Value| {
        let mut claims = claims(more);
        claims["sub"] = owner.into();
        bearer(&signer.sign(&claims))
    };
    let open = async |header: &str| upgrade(service.listen, "segmill.v1", &[("authorization", header)]).await;
    let over = |response: Response<Option<Vec<u8>>>| {
        assert_eq!((response.status().as_u16(), code(&response)), (429, "quota_exceeded".to_owned()));
        assert!(response.headers()["retry-after"].to_str().is_ok_and(|wait| wait.parse::<u32>().is_ok()));
    };
    let (alice, bob) = (of("alice", json!({})), of("bob", json!({})));
    let (first, _) = open(&alice).await.expect("the first");
    let _second = open(&of("alice", json!({"jti": "another token"}))).await.expect("the second");
    over(open(&alice).await.expect_err("the third"));
    let (status, _, body) = service.http("POST", "/v1/transcode", &[("Authorization", &alice)], b"media");
    assert_eq!((status, String::from_utf8_lossy(&body).contains("quota_exceeded")), (429, true), "over HTTP too");
    let _other = open(&bob).await.expect("another owner's");
    let low = of("carol", json!({"segmill": {"sessions": 1}}));
    let _low = open(&low).await.expect("the first");
    over(open(&low).await.expect_err("the token says one"));
    let high = of("bob", json!({"segmill": {"sessions": 9}}));
    let _high = open(&high).await.expect("the second");
    over(open(&high).await.expect_err("a token can't raise it"));
    let rejected = service.metric("segmill_sessions_rejected_total{reason=\"quota_exceeded\"}");
    assert_eq!(rejected, Some(4.0));
    drop(first);
    let sessions = || service.metric("segmill_sessions").unwrap_or_default();
    until("the session is over", || sessions() < 5.0).await;
    open(&alice).await.expect("there is a place again");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_quota_of_bytes_or_pixels_a_session_waits_and_is_not_taken_for_idle() {
    let signer = Signer::new(Algorithm::HS256, "1");
    let header = bearer(&signer.sign(&claims(json!({}))));
    let clip = Clip { audio: None, frames: 60, ..Clip::default() };
    let media = clip.bytes();
    let (bytes, pixels) = ((media.len() / 3).to_string(), (60 * 160 * 90 / 3).to_string());
    for quota in [["--quota-bytes", &bytes], ["--quota-pixels", &pixels]] {
        let more = [&quota[..], &["--quota-burst", "100ms", "--idle-timeout", "1s", "--segment-ms", "500"]].concat();
        let service = guarded(&tokens::set(&[&signer]).to_string(), &more);
        let begun = Instant::now();
        let (socket, _) =
            upgrade(service.listen, "segmill.v1", &[("authorization", &header)]).await.expect("it comes in");
        let session = converse(socket, media.clone()).await;
        assert_eq!(session.close_code(), 1000, "{quota:?}: {:?}", session.errors);
        let numbers: Vec<u16> = media::decode_barcodes(&session.outputs["v"].whole()).iter().map(|&(_, n)| n).collect();
        assert_eq!(numbers, (0..60).collect::<Vec<u16>>(), "{quota:?}: all is made");
        // A third of it a second, and a tenth of a second's worth at once.
        assert!(begun.elapsed() >= Duration::from_millis(2500), "{quota:?}: {:?}", begun.elapsed());
        let waited = service.metric("segmill_backpressure_seconds_total{stage=\"quota\"}").unwrap_or_default();
        assert!(waited > 0.0, "{quota:?}");
        if quota[0] == "--quota-bytes" {
            let begun = Instant::now();
            let path = "/v1/transcode?height=90&audio=none";
            let (status, _, _) = service.http("POST", path, &[("Authorization", &header)], &media);
            assert_eq!(status, 200);
            assert!(begun.elapsed() >= Duration::from_millis(2500), "over HTTP too: {:?}", begun.elapsed());
        }
    }
}
