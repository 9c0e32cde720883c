"""Segmill under measurement: a service on free ports of this machine alone, and `push` as its client.

The service's time and memory are its own and its workers'; the client's are told apart.
"""
import json
import re
import subprocess
import threading
import time
import urllib.request

from . import processes
from .processes import Failed

READY_S = 30


class Service:
    """`with Service(bench, flags)`: ready from the beginning to the end of the block."""

    def __init__(self, bench, *flags):
        self.bench, self.flags = bench, flags
        self.log = bench.scratch / "service.log"

    def __enter__(self):
        self.begun = time.monotonic()
        command = [self.bench.program, "serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]
        command += ["--log-format", "json", "--log", "info", *self.flags]
        self.child = processes.start(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.pid = self.child.pid
        ready = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(ready,), daemon=True)
        self.reader.start()
        if not ready.wait(READY_S) or not self.ports:
            processes.end(self.child)
            raise Failed(f"the service is not ready after {READY_S} s, see {self.log}")
        return self

    def _read(self, ready):
        self.ports, self.ready_after = [], None
        with open(self.log, "wb") as log:
            for line in self.child.stderr:
                log.write(line)
                if self.ready_after is None and b'"message":"ready"' in line:
                    self.ready_after = time.monotonic() - self.begun
                    self.ports = [int(port) for port in re.findall(rb'listen":"127\.0\.0\.1:(\d+)', line)]
                    ready.set()
        ready.set()

    def __exit__(self, *_):
        processes.account(self.clock())
        processes.end(self.child)
        self.reader.join()

    @property
    def port(self):
        return self.ports[0]

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    def until(self, metric, value, patience=30):
        """Until the service counts `value` of something."""
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[1]}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            if any(line.startswith(metric) and float(line.split()[-1]) == value for line in lines):
                return
            time.sleep(0.02)
        raise Failed(f"{metric} is not {value} after {patience} s")

    def warm(self, clip, outputs):
        """All that happens once has happened: code has run, and the machine has been measured."""
        self.push(clip, outputs)
        give_up, before = time.monotonic() + 10, self.clock()
        while time.monotonic() < give_up:
            time.sleep(0.25)
            before, last = self.clock(), before
            if before - last < 2e-3:
                return

    def clock(self):
        return processes.tree_clock(self.pid)

    def workers(self):
        return processes.children(self.pid)

    def peak_of_workers(self):
        """The most memory that one of them had."""
        return max((processes.memory(pid, "VmHWM") for pid in self.workers()), default=0)

    def push(self, clip, outputs, *more, out=None):
        """Streams a file. What the service took, and the client's own; the client's last words; all receipts."""
        told = self.bench.scratch / "push.json"
        command = [self.bench.program, "push", clip, "--to", self.url, "--json", *more]
        command += ["--outputs", json.dumps(outputs)] if outputs else []
        command += ["--out", out] if out else []
        before = self.clock()
        with open(told, "wb") as words:
            client = processes.measure(command, self.bench.scratch / "push.log", stdout=words)
        used = processes.Used(self.clock() - before, client.wall, self.peak_of_workers())
        with open(told) as words:
            lines = [json.loads(line) for line in words if line.startswith("{")]
        summary = next(line for line in lines if line.get("type") == "summary")
        receipts = [line for line in lines if line.get("type") == "receipt"]
        if summary["failed"] or summary["degraded"] or not summary["complete"]:
            raise Failed(f"not all segments came as asked: {summary}")
        return Pushed(used, client, summary, receipts)


class Pushed:
    def __init__(self, used, client, summary, receipts):
        self.used, self.client, self.summary, self.receipts = used, client, summary, receipts

    @property
    def segments(self):
        return self.summary["segments"]

    @property
    def bytes(self):
        return sum(self.summary["bytes_out"].values())
