"""Many users who stream a clip at its own pace and check what comes back, in one process that leaves the processors to the service:
what loadtest/ does by k6, for a fraction of its time.

    python3 -m measure.crowd --port N --clip FILE --users N --outputs JSON --stay SECONDS

A user hands each fragment over when an encoder would have it, however late anything was, and begins the clip anew in a new session
until all have been there for as long as said; each session then ends with its segment. All is on one thread: sockets never block,
what comes goes into one buffer, of which only heads are looked at, and what goes out is the clip's own bytes.

A segment's latency is from the handing over of its last byte to the arrival of the last byte made of it. The wait for the next
fragment is in it, as in `segment_latency` of loadtest/: only there a service sees that the segment has ended. How late this process
was itself with a fragment is told apart.
"""
import argparse
import heapq
import itertools
import json
import pathlib
import re
import select
import socket
import time
from collections import deque

from .clips import FRAGMENT_S, FRAGMENTS, fragments
from .ledger import Ledger, Tally
from .websocket import BINARY, CLOSE, PING, PONG, TEXT, Frames, head, request

# Users come a tenth of a second apart, each a little off it, lest all are due at once.
APART_S, OFF = 0.1, 0.618
# Of a segment: two seconds, 25 a second.
PICTURES = 50
BUFFER = 1 << 18
# So much of what waits is handed to the kernel in one call.
PARTS = 64
# So many sockets are served before it is looked again what is due.
BATCH = 16
# What has not ended so long after it should is given up.
PATIENCE_S = 30
FULL = 1013


class Crowd:
    def __init__(self, given):
        self.port, self.users = given.port, given.users
        outputs = json.loads(given.outputs)
        set_up, media = fragments(given.clip.read_bytes())
        # When it is due, and what: as `sendmsg` takes it.
        self.media = [(number * FRAGMENT_S, [head(BINARY, 1 + len(fragment)) + b"\0", fragment])
                      for number, fragment in enumerate([set_up, *media])]
        self.start = _text({"type": "start", "mode": "live", "segment_ms": 2000, "outputs": outputs})
        self.finish = _text({"type": "finish", "channel": 0})
        sizes = [sum(map(len, media[at:at + FRAGMENTS])) for at in range(0, len(media), FRAGMENTS)]
        self.tally = Tally(outputs, sizes, PICTURES)
        self.buffer = memoryview(bytearray(BUFFER))
        self.poll, self.sessions = select.epoll(), {}
        self.due, self.order = [], itertools.count()
        self.begun = time.monotonic()
        # By user, when the first media was sent.
        self.there = {}
        self.over = self.begun + self.users * APART_S + given.stay

    def run(self):
        for user in range(self.users):
            self.at(self.begun + (user + user * OFF % 1) * APART_S, Session, self, user)
        give_up = self.over + PATIENCE_S
        while (self.due or self.sessions) and time.monotonic() < give_up:
            self._act()
            for descriptor, _ in self.poll.poll(max(0, self.due[0][0] - time.monotonic()) if self.due else 1, BATCH):
                self.sessions[descriptor].serve()
        for session in list(self.sessions.values()):
            session.end("it does not end")
        return self.tally.summary(max(self.there.values()) if len(self.there) == self.users else self.over, self.over)

    def at(self, when, what, *arguments):
        heapq.heappush(self.due, (when, next(self.order), what, arguments))

    def _act(self):
        now = time.monotonic()
        while self.due and self.due[0][0] <= now:
            _, _, what, arguments = heapq.heappop(self.due)
            what(*arguments)

    def again(self, user, after):
        """A user whose session is over comes again, while there is time."""
        if time.monotonic() + after < self.over:
            self.at(time.monotonic() + after, Session, self, user)


class Session:
    """One, from the connection to its end."""

    def __init__(self, crowd, user):
        self.crowd, self.user, self.ledger = crowd, user, Ledger(crowd.tally)
        self.answer, self.frames, self.begun, self.over = bytearray(), Frames(self._take), None, False
        self.gathered, self.control, self.header, self.digest, self.size = bytearray(), bytearray(), None, None, 0
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", crowd.port))
        self.descriptor = self.socket.fileno()
        self.out, self.waits = deque([request(crowd.port)]), True
        crowd.sessions[self.descriptor] = self
        crowd.poll.register(self.descriptor, select.EPOLLIN | select.EPOLLOUT)

    def serve(self):
        try:
            if self.out:
                self._flush()
            self._read()
        except OSError as error:
            self.end(str(error))

    def end(self, why):
        if self.over:
            return
        self.over = True
        self.crowd.poll.unregister(self.descriptor)
        del self.crowd.sessions[self.descriptor]
        self.socket.close()
        if self.begun is not None:
            self.ledger.settle(why)
        elif self.answer is not None:
            self.crowd.tally.complain("not let in", why)

    def _read(self):
        try:
            come = self.crowd.buffer[:self.socket.recv_into(self.crowd.buffer)]
        except BlockingIOError:
            return
        self.came = time.monotonic()
        if not come:
            self.end("the service closed the connection")
        elif self.answer is None:
            self.frames.feed(come)
        else:
            self._answered(come)

    def _answered(self, come):
        """Until the handshake is answered."""
        self.answer += come
        heading, ended, rest = self.answer.partition(b"\r\n\r\n")
        if not ended:
            return
        status = int(heading.split()[1])
        if status in (429, 503):
            after = re.search(rb"\r\nretry-after: *(\d+)", heading, re.IGNORECASE)
            self._turned_away(int(after[1]) if after else 1)
        elif status != 101:
            self.end(f"HTTP {status}")
        else:
            self.answer = None
            self.frames.feed(memoryview(rest))

    def _turned_away(self, after):
        self.crowd.tally.rejected += 1
        self.crowd.there.pop(self.user, None)
        self.answer = self.begun = None
        self.end("full")
        self.crowd.again(self.user, after)

    # What comes.

    def _take(self, kind, piece, ends):
        if self.over:
            return
        if kind == BINARY:
            self._binary(piece)
            if ends:
                self._complete()
        elif kind == TEXT:
            self.gathered += piece
            if ends:
                message, self.gathered = json.loads(self.gathered), bytearray()
                if told := self.TEXTS.get(message["type"]):
                    told(self, message)
        else:
            self.control += piece
            if ends:
                payload, self.control = bytes(self.control), bytearray()
                if kind == PING:
                    self._send([head(PONG, len(payload)) + payload])
                elif kind == CLOSE:
                    self._closed(payload)

    def _binary(self, piece):
        """Of a message's beginning, the header; of all else, how much it is."""
        if self.header is None:
            self.gathered += piece
            media = 4 + int.from_bytes(self.gathered[:4])
            if len(self.gathered) < max(4, media):
                return
            self.header = json.loads(self.gathered[4:media])
            self.size, self.digest = 0, self.ledger.digest() if self.header["type"] == "segment" else None
            piece, self.gathered = self.gathered[media:], bytearray()
        self.size += len(piece)
        if self.digest:
            self.digest.update(piece)

    def _complete(self):
        header, self.header = self.header, None
        if header is None:
            self.end("a message without a header")
        elif header["type"] == "segment":
            self.ledger.segment(header, self.size, self.digest, self.came)
        elif header["type"] == "init":
            self.ledger.init(header, self.size)

    def _ready(self, _message):
        self.begun = time.monotonic()
        self.crowd.there.setdefault(self.user, self.begun)
        self._send(self.crowd.start)
        self._next(0)

    def _receipt(self, message):
        self.ledger.receipt(message, self.came)

    def _error(self, message):
        # A failed segment's is in its receipt, too; that of being turned away, in the close.
        if message["fatal"] and message["code"] != "full":
            self.crowd.tally.complain("an error", message)

    def _done(self, message):
        self.ledger.finished(message)

    TEXTS = {"ready": _ready, "receipt": _receipt, "error": _error, "done": _done}

    def _closed(self, payload):
        code, reason = int.from_bytes(payload[:2]), payload[2:].decode(errors="replace")
        if code == FULL and self.ledger.next == 1:
            self._turned_away(1)
            return
        self._send([head(CLOSE, len(payload[:2])) + payload[:2]])
        self.end(f"{code} {reason}")
        if self.ledger.done:
            self.crowd.again(self.user, 0)

    # What goes.

    def _next(self, number):
        """Hands over what is due, the set-up being number 0."""
        if self.over:
            return
        due, now = self.begun + self.crowd.media[number][0], time.monotonic()
        self._send(self.crowd.media[number][1])
        if number:
            self.crowd.tally.late.append((now - due) * 1e3)
            self.ledger.sent.append(now)
        ends = number % FRAGMENTS == 0 and number > 0 and now >= self.crowd.over
        if ends or number + 1 == len(self.crowd.media):
            self._send(self.crowd.finish)
        else:
            self.crowd.at(self.begun + self.crowd.media[number + 1][0], self._next, number + 1)

    def _send(self, parts):
        waits = bool(self.out)
        self.out.extend(parts)
        if not waits:
            try:
                self._flush()
            except OSError as error:
                self.end(str(error))

    def _flush(self):
        """As much of what waits as the socket takes; the poll tells when it takes more."""
        try:
            sent = self.socket.sendmsg(itertools.islice(self.out, PARTS))
        except BlockingIOError:
            sent = 0
        while self.out and sent >= len(self.out[0]):
            sent -= len(self.out.popleft())
        if sent:
            self.out[0] = memoryview(self.out[0])[sent:]
        if bool(self.out) != self.waits:
            self.waits = not self.waits
            self.crowd.poll.modify(self.descriptor, select.EPOLLIN | (select.EPOLLOUT if self.waits else 0))


def _text(message):
    payload = json.dumps(message).encode()
    return [head(TEXT, len(payload)) + payload]


def main():
    parser = argparse.ArgumentParser(prog="measure.crowd")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clip", type=pathlib.Path, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--outputs", required=True, help="as in `start`")
    parser.add_argument("--stay", type=float, required=True, help="seconds for which all are there")
    print(json.dumps(Crowd(parser.parse_args()).run()))


if __name__ == "__main__":
    main()
