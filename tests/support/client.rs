//! A client of the protocol for tests. It shares no code with the service: messages are raw JSON, and it checks by
//! itself what every client may rely on (order, counts, hashes).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// All that came back from a session.
#[derive(Debug, Default)]
pub struct Session {
    /// As `ready` names it.
    pub id: String,
    /// By output: each init, each segment's header and media.
    pub outputs: BTreeMap<String, Output>,
    pub tracks: Vec<Value>,
    pub receipts: Vec<Value>,
    pub events: Vec<Value>,
    pub errors: Vec<Value>,
    pub done: Option<Value>,
    pub close: Option<(u16, String)>,
    pub moved: Vec<Value>,
    seq: u64,
}

#[derive(Debug, Default)]
pub struct Output {
    pub inits: Vec<(Value, Vec<u8>)>,
    pub segments: Vec<(Value, Vec<u8>)>,
}

impl Output {
    /// The first init and all media: a file that players open.
    pub fn whole(&self) -> Vec<u8> {
        let init = self.inits.first().map(|(_, init)| init.as_slice()).unwrap_or_default();
        let media = self.segments.iter().flat_map(|(_, media)| media);
        init.iter().chain(media).copied().collect()
    }

    /// [`Self::whole`] as a file in `folder`.
    pub fn save(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.whole()).expect("the folder can be written");
        path
    }
}

/// An open socket, after `ready`.
pub async fn connect(to: SocketAddr) -> Socket {
    let mut request = format!("ws://{to}/v1/stream").into_client_request().expect("a URL");
    request.headers_mut().insert("sec-websocket-protocol", "segmill.v1".parse().expect("a header"));
    let limits = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let (socket, response) =
        tokio_tungstenite::connect_async_with_config(request, Some(limits), true).await.expect("the upgrade");
    assert_eq!(response.headers()["sec-websocket-protocol"], "segmill.v1");
    socket
}

/// Streams `media` in chunks of at most `chunk` bytes and reads until the close.
pub async fn stream(to: SocketAddr, start: Value, media: Vec<u8>, chunk: usize) -> Session {
    stream_in_sizes(to, start, media, std::iter::repeat(chunk)).await
}

/// Streams `media` in chunks of these sizes, the last of them as long as what is left, and reads until the close.
pub async fn stream_in_sizes(
    to: SocketAddr,
    start: Value,
    media: Vec<u8>,
    mut sizes: impl Iterator<Item = usize> + Send + 'static,
) -> Session {
    let mut start = start;
    start["type"] = json!("start");
    let socket = connect(to).await;
    let (mut sink, mut stream) = socket.split();
    let sending = tokio::spawn(async move {
        sink.send(Message::text(start.to_string())).await?;
        let mut rest = media.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(sizes.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            rest = after;
            let mut message = Vec::with_capacity(piece.len() + 1);
            message.push(0);
            message.extend_from_slice(piece);
            sink.send(Message::binary(message)).await?;
        }
        sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await?;
        Ok::<_, Error>(sink)
    });
    let mut session = Session::default();
    while let Some(message) = stream.next().await {
        match message {
            Ok(message) => session.take(message),
            Err(error) => {
                assert!(session.close.is_some(), "the connection ended without a close: {error}");
                break;
            }
        }
    }
    // A refused session may be closed while media is still being sent.
    let _ = sending.await.expect("sending does not panic");
    session
}

impl Session {
    /// Forgets what came after a receipt.
    pub fn go_back_to(&mut self, seq: u64) {
        self.seq = seq;
        self.receipts.truncate(seq as usize);
        self.begin_connection();
    }

    /// Another connection goes on after the last receipt: what came after that comes again.
    pub fn begin_connection(&mut self) {
        self.close = None;
        self.events.retain(|event| event["seq"].as_u64().is_some_and(|seq| seq <= self.seq));
        for output in self.outputs.values_mut() {
            output.segments.retain(|(header, _)| header["seq"].as_u64().is_some_and(|seq| seq <= self.seq));
            let settled = output.segments.last().and_then(|(header, _)| header["init"].as_u64());
            output.inits.truncate(settled.unwrap_or_default() as usize);
        }
    }

    /// Takes a message in, and checks its place in the order.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Binary(data) => self.binary(&data),
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).expect("text messages are JSON");
                match message["type"].as_str() {
                    Some("ready") => message["session"].as_str().unwrap_or_default().clone_into(&mut self.id),
                    Some("receipt") => {
                        assert_eq!(message["seq"], self.seq + 1, "receipts rise by one");
                        self.seq += 1;
                        self.receipts.push(message);
                    }
                    Some("event") => {
                        assert_eq!(message["seq"], self.seq + 1, "an event comes before the receipt of its segment");
                        self.events.push(message);
                    }
                    Some("tracks") => self.tracks.push(message),
                    Some("error") => self.errors.push(message),
                    Some("moved") => self.moved.push(message),
                    Some("done") => self.done = Some(message),
                    _ => {}
                }
            }
            Message::Close(frame) => {
                self.close =
                    frame.map(|frame| (frame.code.into(), frame.reason.to_string())).or(Some((1005, String::new())));
            }
            _ => {}
        }
    }

    fn binary(&mut self, data: &[u8]) {
        let length = u32::from_be_bytes(data[..4].try_into().expect("four bytes")) as usize;
        let header: Value = serde_json::from_slice(&data[4..4 + length]).expect("headers are JSON");
        let payload = data[4 + length..].to_vec();
        let output = self.outputs.entry(header["output"].as_str().expect("a name").to_owned()).or_default();
        if header["type"] == "init" {
            assert_eq!(header["id"], output.inits.len() as u64 + 1);
            output.inits.push((header, payload));
            return;
        }
        let told = self.events.last().is_some_and(|event| event["seq"] == header["seq"]);
        assert!(!told, "events come behind the media of their segment");
        assert_eq!(header["seq"], self.seq + 1, "nothing of a segment before the receipt of the one before it");
        assert_eq!(header["bytes"], payload.len() as u64);
        let hash: String = Sha256::digest(&payload).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(header["sha256"], hash);
        if !header["init"].is_null() {
            assert_eq!(header["init"], output.inits.len() as u64, "a segment names the init that was sent last");
        }
        let again = output.segments.last().is_some_and(|(last, _)| last["seq"] == header["seq"]);
        assert!(!again, "an output has one segment for each number");
        output.segments.push((header, payload));
    }

    pub fn close_code(&self) -> u16 {
        self.close.as_ref().map_or(0, |close| close.0)
    }

    pub fn error_codes(&self) -> Vec<&str> {
        self.errors.iter().filter_map(|error| error["code"].as_str()).collect()
    }
}
