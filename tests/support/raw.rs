//! A WebSocket client that writes frames byte by byte, also those that no library sends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::client::Session;

/// A service that doesn't answer any more is a fault of its own.
const STUCK: Duration = Duration::from_secs(120);

/// The header of an upgrade, up to its last empty line.
pub const UPGRADE: &str = "GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                           Sec-WebSocket-Protocol: segmill.v1\r\n";

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A client's frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub last: bool,
    pub reserved: u8,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self { last: true, reserved: 0, opcode, masked: true, payload: payload.as_ref().to_vec() }
    }

    /// Others of its message follow.
    pub fn part(self) -> Self {
        Self { last: false, ..self }
    }

    pub fn reserved(self, bits: u8) -> Self {
        Self { reserved: bits, ..self }
    }

    pub fn unmasked(self) -> Self {
        Self { masked: false, ..self }
    }

    /// A close with a code and a reason.
    pub fn close(code: u16, reason: impl AsRef<[u8]>) -> Self {
        Self::new(CLOSE, [&code.to_be_bytes()[..], reason.as_ref()].concat())
    }

    pub fn bytes(&self) -> Vec<u8> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let mut bytes = vec![u8::from(self.last) << 7 | self.reserved << 4 | self.opcode];
        let masked = u8::from(self.masked) << 7;
        match self.payload.len() {
            length @ 0..126 => bytes.push(masked | length as u8),
            length @ 126..65536 => {
                bytes.push(masked | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(masked | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend(MASK);
            bytes.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            bytes.extend(&self.payload);
        }
        bytes
    }
}

/// A connection that may be a WebSocket.
pub struct Raw(TcpStream);

impl Raw {
    /// Connected, and nothing said.
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("the port is open");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(STUCK)).expect("an option");
        Self(stream)
    }

    /// An open WebSocket, after `ready`.
    pub fn upgraded(to: SocketAddr) -> Self {
        let mut raw = Self::connect(to);
        raw.write(format!("{UPGRADE}\r\n").as_bytes());
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            raw.0.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let (opcode, payload) = raw.frame().expect("ready");
        assert!(opcode == TEXT && payload.starts_with(b"{\"type\":\"ready\""));
        raw
    }

    /// What the service doesn't take any more is not sent; false then.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    pub fn send(&mut self, frame: &Frame) -> bool {
        self.write(&frame.bytes())
    }

    /// The other half, for another thread.
    pub fn both(&self) -> Self {
        Self(self.0.try_clone().expect("a socket can be cloned"))
    }

    /// The next frame: its opcode and payload. None at the end of the stream.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        self.frame_of_message().map(|(_, opcode, payload)| (opcode, payload))
    }

    /// The same, and whether it is the last of its message.
    fn frame_of_message(&mut self) -> Option<(bool, u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).ok()?;
        assert_eq!((head[0] & 0x70, head[1] & 0x80), (0, 0), "no reserved bit and no mask from a server");
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).ok()?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.0.read_exact(&mut length).ok()?;
                u64::from_be_bytes(length)
            }
            length => u64::from(length),
        };
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[0] & 0x80 != 0, head[0] & 0x0f, payload))
    }

    /// All frames up to the end of the stream. A close is answered.
    pub fn rest(&mut self) -> Ending {
        let mut ending = Ending::default();
        while let Some((opcode, payload)) = self.frame() {
            match opcode {
                PONG => ending.pongs.push(payload),
                CLOSE => {
                    assert!(!ending.closed, "one close");
                    ending.closed = true;
                    // The service waits for this.
                    self.send(&Frame::close(1000, b""));
                    ending.close = (payload.len() >= 2).then(|| u16::from_be_bytes([payload[0], payload[1]]));
                }
                TEXT => {
                    // A message too large for a frame is none that says an error.
                    let message: Value = serde_json::from_slice(&payload).unwrap_or_default();
                    if message["type"] == "error" {
                        ending.error = message["code"].as_str().map(str::to_owned);
                    }
                }
                _ => {}
            }
        }
        ending
    }
}

/// How a connection ended.
#[derive(Debug, Default)]
pub struct Ending {
    pub pongs: Vec<Vec<u8>>,
    /// The code of the last error message.
    pub error: Option<String>,
    pub closed: bool,
    /// The code in the close.
    pub close: Option<u16>,
}

impl Raw {
    /// Reads a session to its end: what came, and how many pongs.
    pub fn session(&mut self) -> (Session, usize) {
        let (mut session, mut pongs, mut whole) = (Session::default(), 0, Vec::new());
        let mut kind = TEXT;
        while let Some((last, opcode, payload)) = self.frame_of_message() {
            match opcode {
                PONG => pongs += 1,
                PING => {}
                CLOSE => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    let reason = String::from_utf8(payload[2..].to_vec()).expect("UTF-8");
                    session.close = Some((code, reason));
                    self.send(&Frame::close(code, b""));
                }
                _ => {
                    kind = if opcode == CONTINUATION { kind } else { opcode };
                    whole.extend(payload);
                    if last {
                        let message = std::mem::take(&mut whole);
                        session.take(match kind {
                            TEXT => Message::text(String::from_utf8(message).expect("UTF-8")),
                            _ => Message::binary(message),
                        });
                    }
                }
            }
        }
        (session, pongs)
    }
}
