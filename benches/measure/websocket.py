"""As much of a WebSocket client as measuring takes: what it sends is masked with zeros, that is, as it is."""
import base64
import json
import os
import socket
import struct

from .processes import Failed

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(request(port))
        self.come = self.socket.makefile("rb")
        status = self.come.readline()
        if b" 101 " not in status:
            raise Failed(f"no WebSocket: {status!r}")
        while self.come.readline() not in (b"\r\n", b""):
            pass

    def send(self, payload, text=False):
        self.socket.sendall(head(TEXT if text else BINARY, len(payload)) + payload)

    def tell(self, message):
        self.send(json.dumps(message).encode(), text=True)

    def frame(self):
        """The next frame: whether a message starts with it, whether it is text, its payload. Pings are answered."""
        while True:
            begin = self.come.read(2)
            if len(begin) < 2:
                raise Failed("the service closed the connection")
            kind, length = begin[0] & 0x0F, begin[1] & 0x7F
            if length == 126:
                length = int.from_bytes(self.come.read(2))
            elif length == 127:
                length = int.from_bytes(self.come.read(8))
            payload = self.come.read(length)
            if kind == CLOSE:
                raise Failed(f"the service closed the session: {payload!r}")
            if kind == PING:
                self.socket.sendall(head(PONG, length) + payload)
            elif kind in (CONTINUATION, TEXT, BINARY):
                return kind != CONTINUATION, kind == TEXT, payload

    def close(self):
        self.come.close()
        self.socket.close()


class Frames:
    """Of what comes of a WebSocket whose bytes are handed over as they come: `take(kind, piece, ends)` gets the payloads of each
    message, in pieces that are views of those bytes, and is told with which of them the message ends."""

    def __init__(self, take):
        self.take = take
        self.head, self.wanted, self.left, self.message = bytearray(), 2, 0, None

    def feed(self, come):
        at = 0
        while at < len(come):
            if self.left:
                piece = come[at:at + self.left]
                at += len(piece)
                self.left -= len(piece)
                self.take(self.kind, piece, self.final and not self.left)
                continue
            more = come[at:at + self.wanted - len(self.head)]
            at += len(more)
            self.head += more
            if len(self.head) == self.wanted:
                self._begin()

    def _begin(self):
        begin, length = self.head[0], self.head[1] & 0x7F
        if self.wanted == 2 and length > 125:
            self.wanted = 4 if length == 126 else 10
            return
        self.left = length if self.wanted == 2 else int.from_bytes(self.head[2:])
        self.kind, self.final = begin & 0x0F, begin & 0x80 != 0
        if self.kind == CONTINUATION:
            self.kind = self.message
        elif self.kind in (TEXT, BINARY):
            self.message = self.kind
        self.head, self.wanted = bytearray(), 2
        if not self.left:
            self.take(self.kind, b"", self.final)


def request(port):
    """The handshake, which the service answers with 101."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (f"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: segmill.v1\r\n\r\n").encode()


def head(kind, length):
    """What comes before the payload of a message in one frame."""
    if length < 126:
        begin = struct.pack("!BB", 0x80 | kind, 0x80 | length)
    elif length < 1 << 16:
        begin = struct.pack("!BBH", 0x80 | kind, 0x80 | 126, length)
    else:
        begin = struct.pack("!BBQ", 0x80 | kind, 0x80 | 127, length)
    return begin + bytes(4)


def header(payload):
    """The JSON header of a binary message's first frame."""
    length = int.from_bytes(payload[:4])
    return json.loads(payload[4:4 + length])
