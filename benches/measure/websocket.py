"""As much of a WebSocket client as measuring takes: what it sends is masked with zeros, that is, as it is."""
import base64
import json
import os
import socket
import struct

from .processes import Failed


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: segmill.v1\r\n\r\n".encode())
        self.come = self.socket.makefile("rb")
        status = self.come.readline()
        if b" 101 " not in status:
            raise Failed(f"no WebSocket: {status!r}")
        while self.come.readline() not in (b"\r\n", b""):
            pass

    def send(self, payload, text=False):
        length = len(payload)
        head = bytes([0x81 if text else 0x82])
        if length < 126:
            head += bytes([0x80 | length])
        elif length < 1 << 16:
            head += struct.pack("!BH", 0x80 | 126, length)
        else:
            head += struct.pack("!BQ", 0x80 | 127, length)
        self.socket.sendall(head + bytes(4) + payload)

    def tell(self, message):
        self.send(json.dumps(message).encode(), text=True)

    def frame(self):
        """The next frame: whether a message starts with it, whether it is text, its payload. Pings are answered."""
        while True:
            head = self.come.read(2)
            if len(head) < 2:
                raise Failed("the service closed the connection")
            kind, length = head[0] & 0x0F, head[1] & 0x7F
            if length == 126:
                length = int.from_bytes(self.come.read(2))
            elif length == 127:
                length = int.from_bytes(self.come.read(8))
            payload = self.come.read(length)
            if kind == 8:
                raise Failed(f"the service closed the session: {payload!r}")
            if kind == 9:
                self.socket.sendall(bytes([0x8A, 0x80 | length]) + bytes(4) + payload)
            elif kind in (0, 1, 2):
                return kind != 0, kind == 1, payload

    def close(self):
        self.come.close()
        self.socket.close()


def header(payload):
    """The JSON header of a binary message's first frame."""
    length = int.from_bytes(payload[:4])
    return json.loads(payload[4:4 + length])
