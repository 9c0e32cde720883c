"""Single sessions and idle ones: how soon a service is there, how late a live segment is, what a session costs that does nothing."""
import json
import resource
import threading
import time

from . import processes
from .clips import FRAGMENT_S, FRAGMENTS, fragments
from .processes import Failed
from .results import median, percentile
from .service import Service
from .websocket import Client, header


def start(bench, part):
    """From nothing to ready, and to the first byte of the first segment."""
    clip = bench.clips.live("480p24", 30, 1500)
    media = bench.clips.beginning(clip, 6).read_bytes()
    ready, first = [], []
    for _ in range(bench.pick(3, 15)):
        with Service(bench) as service:
            took, encode = _first_segment(service, media)
            ready.append(service.ready_after * 1e3)
            first.append((took - encode) * 1e3)
            bench.say(f"  ready after {ready[-1]:.0f} ms, first segment after {took * 1e3:.0f} ms, {encode * 1e3:.0f} of it its encode")
    part.row("ready", f"{median(ready):.0f} ms (at most {max(ready):.0f})", max(ready) <= 300)
    part.row("first", f"{median(first):.0f} ms (at most {max(first):.0f})", max(first) <= 300)


def _first_segment(service, media):
    """Seconds from the service's start to the first byte of the first segment, and of them the job's own time."""
    client = Client(service.port)
    client.tell({"type": "start", "outputs": [{"name": "360p", "video": {"codec": "h264", "height": 360}}]})
    for at in range(0, len(media), 1 << 18):
        client.send(b"\0" + media[at:at + (1 << 18)])
    client.tell({"type": "finish", "channel": 0})
    begun = None
    while True:
        starts, text, payload = client.frame()
        if starts and not text and begun is None and header(payload)["type"] == "segment":
            begun = time.monotonic() - service.begun
        if starts and text:
            message = json.loads(payload)
            if message["type"] == "receipt":
                client.close()
                if message["outcome"] != "ok":
                    raise Failed(f"the first segment: {message}")
                return begun, message["transcode_ms"] / 1e3
            if message["type"] == "error":
                raise Failed(f"the service: {message}")


def live(bench, part):
    """One live session at its own pace."""
    seconds = bench.pick(10, 60)
    clip = bench.clips.live("1080p60", seconds, 6000, rate=30, loops=1)
    outputs = [{"name": str(height), "video": {"codec": "h264", "height": height}} for height in (720, 480, 360)]
    outputs[0]["audio"] = {"codec": "copy"}
    with Service(bench) as service:
        service.warm(bench.clips.beginning(clip, 4), outputs)
        late, receipts = _paced(service, clip, outputs)
    less = sum(receipt["outcome"] != "ok" for receipt in receipts)
    p95, told = percentile(late, 95), percentile([receipt["latency_ms"] for receipt in receipts], 95)
    work = median([receipt["transcode_ms"] for receipt in receipts])
    bench.say(f"  {len(late)} segments: median {median(late):.0f} ms, p95 {p95:.0f} ms, most {max(late):.0f} ms; {work:.0f} ms of it the jobs; {less} not as asked")
    # What came as something less in time, or failed, was not made in time.
    part.row("live-latency", f"{p95 / 1e3:.2f} s (median {median(late) / 1e3:.2f}, most {max(late) / 1e3:.2f}; by the receipts {told / 1e3:.2f}); "
             f"{less} of {len(late)} not as asked", p95 <= 600 and not less)
    part.lines("live", "A live 1080p30 session: latency of each segment", "segment", "ms", {"latency": [[n, ms] for n, ms in enumerate(late, 1)]})


def _paced(service, clip, outputs):
    """Sends each fragment of a clip when an encoder would have it. Of each segment, milliseconds from the sending of its last byte to
    the arrival of the last made of it; and the receipts."""
    head, media = fragments(clip.read_bytes())
    client, sent, receipts, late = Client(service.port), [], [], []
    client.tell({"type": "start", "mode": "live", "outputs": outputs})

    def send():
        begun = time.monotonic()
        for number, fragment in enumerate(media, 1):
            time.sleep(max(0, begun + number * FRAGMENT_S - time.monotonic()))
            client.send(b"\0" + (head if number == 1 else b"") + fragment)
            sent.append(time.monotonic())
        client.tell({"type": "finish", "channel": 0})

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    while True:
        starts, text, payload = client.frame()
        if not (starts and text):
            continue
        message = json.loads(payload)
        if message["type"] == "receipt":
            receipts.append(message)
            late.append((time.monotonic() - sent[message["seq"] * FRAGMENTS - 1]) * 1e3)
        elif message["type"] == "done":
            break
        elif message["type"] == "error" and message["fatal"]:
            raise Failed(f"the service: {message}")
    sender.join()
    client.close()
    if len(receipts) * FRAGMENTS != len(media):
        raise Failed(f"{len(media)} fragments came back as {len(receipts)} segments")
    return late, receipts


def idle(bench, part):
    """Sessions that have said what they want and send nothing."""
    sessions = bench.pick(200, 1000)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < sessions + 200:
        raise Failed(f"no more than {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (sessions + 200 if hard == resource.RLIM_INFINITY else hard, hard))
    flags = ["--max-sessions", str(sessions + 100), "--capacity-cores", "256", "--hold-window", "100ms"]
    with Service(bench, *flags) as service:
        # All code has run once.
        _leave(_idle(service, 20))
        service.until("segmill_sessions", 0)
        before, kernel = processes.memory(service.pid, "VmRSS"), _kernel()
        clients = _idle(service, sessions)
        try:
            each = (processes.memory(service.pid, "VmRSS") - before) / sessions
            each_kernel = (_kernel() - kernel) / sessions
        finally:
            _leave(clients)
    part.row("idle", f"{each / 1024:.1f} KiB of {sessions:,} (and {each_kernel / 1024:.0f} KiB of the kernel's, both ends and whatever else ran)", each <= 64 * 1024 if sessions >= 1000 else None)


def _idle(service, count):
    clients = []
    for _ in range(count):
        client = Client(service.port)
        client.frame()
        client.tell({"type": "start"})
        clients.append(client)
    service.until("segmill_sessions", count)
    return clients


def _leave(clients):
    for client in clients:
        client.close()


def _kernel():
    """Bytes of the kernel's: its slabs, and the pages of sockets."""
    with open("/proc/meminfo") as lines:
        slab = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Slab:"))
    with open("/proc/net/sockstat") as lines:
        pages = next(int(line.split()[-1]) for line in lines if line.startswith("TCP:"))
    return slab + pages * resource.getpagesize()
