"""What comes of many live sessions held against what was sent, and against the protocol: each segment once, in order, as asked, with
all its outputs, and with as many bytes as its header says. As loadtest/ledger.js has it, for next to no processor time: of the
digests, one in `HASHED` is computed.
"""
import hashlib
from collections import Counter

from .clips import FRAGMENTS
from .results import percentile

HASHED = 7
# Of the bytes of a segment that were sent, all outputs together come to about as many: nothing here is made smaller.
LEAST, MOST = 0.8, 1.2
COMPLAINTS = 5


class Tally:
    """What all sessions come to. `sizes`: bytes of each segment of the clip; `pictures`: in each."""

    def __init__(self, outputs, sizes, pictures):
        self.outputs, self.sizes, self.pictures = {output["name"]: output for output in outputs}, sizes, pictures
        # Of each segment that came: when its last byte was sent, and how long after that the last byte made of it was there.
        self.latencies, self.late = [], []
        self.wrong, self.complaints = Counter(), []
        self.rejected = self.sessions = self.failed = self.lost = 0
        self.payloads = self.hashed = 0

    def complain(self, what, more):
        self.wrong[what] += 1
        if len(self.complaints) < COMPLAINTS:
            self.complaints.append(f"{what}: {more}"[:300])

    def summary(self, begin, end):
        """Times in ms; `all_there`: of the segments whose last byte was sent between `begin` and `end`."""
        all_there = [took for sent, took in self.latencies if begin <= sent < end]
        return {"sessions": self.sessions, "rejected": self.rejected, "segments": len(self.latencies),
                "lost": self.lost, "failed": self.failed, "wrong": self.wrong, "complaints": self.complaints, "hashed": self.hashed,
                "latency": spread([took for _, took in self.latencies]), "all_there": spread(all_there), "late": spread(self.late)}


class Ledger:
    """Of one session."""

    def __init__(self, tally):
        self.tally = tally
        # By fragment: when it was handed over.
        self.sent = []
        self.inits, self.ends, self.done = set(), {}, False
        self.next, self.open, self.wrong, self.last, self.outcomes = 1, {}, False, None, Counter()

    def init(self, header, size):
        self._hold(size > 0, "an empty init", header)
        self.inits.add((header["output"], header["id"]))

    def digest(self):
        """Of a segment that begins: what its bytes are to be given to, of one in some."""
        self.tally.payloads += 1
        return hashlib.sha256() if self.tally.payloads % HASHED == 1 else None

    def segment(self, header, size, digest, at):
        name = header["output"]
        self._hold(header["seq"] == self.next and name in self.tally.outputs and name not in self.open, "out of order", header)
        self._hold(size == header["bytes"] > 0, "not of its size", header)
        self._hold((name, header["init"]) in self.inits, "without an init", header)
        self._hold(self.ends.get(name, header["start"]) == header["start"], "not where the last one ends", header)
        if digest:
            self.tally.hashed += 1
            self._hold(digest.hexdigest() == header["sha256"], "not of its digest", header)
        self.ends[name] = header["start"] + header["duration"]
        self.open[name], self.last = header, at

    def receipt(self, receipt, at):
        tally, seq = self.tally, receipt["seq"]
        self._hold(seq == self.next, "out of order", receipt)
        ending = seq * FRAGMENTS - 1
        if seq < self.next or ending >= len(self.sent):
            tally.complain("before it was sent, or twice", receipt)
            return
        self._absent(receipt)
        tally.lost += seq - self.next
        self._hold(receipt["outcome"] != "failed", "failed", receipt)
        if receipt["outcome"] == "degraded":
            tally.complain("degraded", receipt)
        self._hold(receipt["frames_in"] == tally.pictures, "not of its pictures", receipt)
        for name in self.open.keys() & tally.outputs.keys():
            if "video" in tally.outputs[name]:
                self._hold(receipt["frames_out"].get(name) == self.open[name]["frames"] == receipt["frames_in"], "pictures left out", receipt)
            if "audio" in tally.outputs[name]:
                self._hold(receipt["audio_samples"].get(name, 0) > 0, "sound left out", receipt)
        share = sum(header["bytes"] for header in self.open.values()) / tally.sizes[seq - 1]
        self._hold(LEAST <= share <= MOST or len(self.open) < len(tally.outputs), "hollow", receipt)
        tally.latencies.append((self.sent[ending], ((self.last or at) - self.sent[ending]) * 1e3))
        tally.failed += self.wrong
        self.outcomes[receipt["outcome"]] += 1
        self.next, self.open, self.wrong, self.last = seq + 1, {}, False, None

    def _absent(self, receipt):
        """What a segment lacks goes on later; it is lost where the receipt doesn't say so."""
        told = {entry["output"] for entry in receipt.get("degraded", []) if entry["what"] == "rung_left_out"}
        for name in self.tally.outputs.keys() - self.open.keys():
            self.ends.pop(name, None)
            if receipt["outcome"] != "failed" and name not in told:
                self.tally.lost += 1
                self._hold(False, "an output is lost", receipt)

    def finished(self, told):
        self.done = True
        if [told["segments"], told["failed"], told["degraded"]] != [self.next - 1, self.outcomes["failed"], self.outcomes["degraded"]]:
            self.tally.complain("the sums", told)

    def settle(self, why):
        """The session is over: what was sent and did not come is lost."""
        self.tally.sessions += 1
        self.tally.lost += max(0, len(self.sent) // FRAGMENTS - (self.next - 1))
        if not self.done:
            self.tally.complain("ended early", why)

    def _hold(self, holds, what, message):
        if not holds:
            self.wrong = True
            self.tally.complain(what, message)


def spread(values):
    return {"median": percentile(values, 50), "p95": percentile(values, 95), "most": max(values)} if values else None
