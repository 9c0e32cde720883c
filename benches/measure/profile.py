"""Where the processor time of a ladder goes, by the library it is spent in, as perf samples it."""
import re
import shutil
import subprocess
import time

from . import processes
from .ladder import sizes, wanted
from .processes import Failed
from .service import Service

HERTZ = 499
# It lists the threads first, and ends where one of them has ended when it comes to it.
ATTEMPTS = 5
# What is not "everything else".
CODECS = {"libx264": "x264", "libavcodec": "the decoder"}


def profile(bench, part):
    perf = shutil.which("perf")
    if not perf:
        raise Failed("there is no perf here")
    clip = bench.clips.live("1080p24", bench.pick(4, 30), 8000)
    outputs, data = wanted(sizes(1080)), bench.scratch / "perf.data"
    with Service(bench) as service:
        service.warm(bench.clips.beginning(clip, 4), outputs)
        recorder, begun = record(bench, perf, data, [service.pid, *service.workers()])
        try:
            used = service.push(clip, outputs).used
        finally:
            processes.interrupt(recorder)
            processes.finish(recorder, begun)
    told = subprocess.run([perf, "report", "-i", data, "--stdio", "--sort", "dso", "-n", "-q"], capture_output=True, text=True)
    samples = {name: int(count) for count, name in re.findall(r"^\s*[\d.]+%\s+(\d+)\s+(\S+)", told.stdout, re.M)}
    seen = sum(samples.values()) / HERTZ / used.cpu
    bench.say(f"  perf has seen {seen:.0%} of {used.cpu:.2f} s")
    if not 0.9 < seen < 1.1:
        raise Failed(f"perf has seen {seen:.0%} of the processor time: {(bench.scratch / 'perf.log').read_text()[-300:]} {told.stderr[-300:]}")
    shares = {name: 100 * count / sum(samples.values()) for name, count in samples.items()}
    by = {}
    for name, share in shares.items():
        known = next((codec for start, codec in CODECS.items() if name.startswith(start)), name)
        by[known] = by.get(known, 0) + share
    rest = 100 - sum(by.get(codec, 0) for codec in CODECS.values())
    lines = [[name, f"{share:.1f}"] for name, share in sorted(by.items(), key=lambda item: -item[1]) if share >= 0.1]
    part.table("Where a ladder's processor time goes", ["in", "percent"], lines, "perf, by shared object, of the service and its workers.")
    part.row("profile", f"{rest:.1f} %", rest <= 8)


def record(bench, perf, data, pids):
    """A perf that samples those processes, also threads that begin after it has, and when it began."""
    command = [perf, "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-o", data, "-p", ",".join(map(str, pids))]
    log = bench.scratch / "perf.log"
    for _ in range(ATTEMPTS):
        with open(log, "wb") as words:
            recorder = processes.start(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words)
        begun = time.monotonic()
        while not data.is_file() and time.monotonic() < begun + 10:
            time.sleep(0.05)
        time.sleep(1)
        if not processes.has_ended(recorder):
            return recorder, begun
        processes.finish(recorder, begun)
    raise Failed(f"perf ends at once: {log.read_text()[-300:]}")
