"""Many live sessions at the pace of their media, by k6 on the same processors: loadtest/ has the users, this the service and the
verdict."""
import json
import os
import subprocess
import time

from . import processes
from .processes import Failed
from .service import Service

SECONDS = 60


def users(bench, part):
    clip = _told(bench, "scripts/clip.sh")
    k6 = _told(bench, "scripts/k6.sh")
    lines = []
    for key, count, target in (("users-copy", 500, "copy"), ("users-audio", 100, "audio"), ("server-100", 100, "copy")):
        count = bench.pick(count // 20, count)
        run = _run(bench, k6, clip, count, target)
        lines.append([count, "all copied" if target == "copy" else "video copied, sound encoded", f"{run['p95'] / 1e3:.2f}", f"{run['median'] / 1e3:.2f}",
                      run["lost"], f"{run['failed'] * 100:.1f} %", run["segments"], f"{run['cost'] * 1e3:.2f}", f"{run['k6'] * 1e3:.2f}", f"{run['memory'] / 1e6:.0f}", f"{run['lag']:.0f}"])
        if key == "server-100":
            part.row(key, f"{run['memory'] / (1 << 20):.0f} MiB", bench.pick(None, run["memory"] <= 150 << 20))
        else:
            good = run["p95"] <= 500 and not run["lost"] and not run["failed"] and not run["rejected"]
            part.row(key, f"{run['p95'] / 1e3:.2f} s, {run['lost']:.0f}; {run['failed'] * 100:.1f} % failed, {run['rejected'] * 100:.0f} % of the attempts turned away", bench.pick(None, good))
    columns = ["users", "what is made", "latency p95, s", "median, s", "lost", "failed", "segments", "service's processor time a segment, ms", "k6's, ms", "server's most memory, MB", "k6 late itself, p95, ms"]
    part.table("Live sessions", columns, lines, f"loadtest/ by k6: users come for {SECONDS} s or more, 720p25 at 1.5 Mb/s in fragments of 200 ms; the wait for the next fragment is in the latency.")


def _told(bench, script):
    done = subprocess.run([bench.top / script], capture_output=True, text=True, cwd=bench.top)
    if done.returncode:
        raise Failed(f"{script}: {done.stderr[-300:]}")
    return done.stdout.split()[-1]


def _run(bench, k6, clip, count, target):
    out = bench.folder / "users"
    out.mkdir(exist_ok=True)
    # Users begin a tenth of a second apart, and each plays the minute of the clip to its end.
    duration = bench.pick(1, max(SECONDS, count // 10 + 10))
    with Service(bench, "--max-sessions", "1100") as service:
        environment = dict(os.environ, URL=service.url, CLIP=clip, OUT=str(out), USERS=str(count), DURATION=f"{duration}s", TARGET=target, PROFILE="standard")
        before = service.clock()
        child = processes.start([k6, "run", "--no-usage-report", "--address", "", "--quiet", "loadtest/stream.js"], cwd=bench.top, env=environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(bench.scratch / "k6.log", "wb"))
        used = processes.finish(child, time.monotonic())
        # 99: a threshold did not hold; what came of it is in the summary.
        if child.returncode not in (0, 99):
            raise Failed(f"k6 ended with {child.returncode}, see {bench.scratch / 'k6.log'}")
        took, memory = service.clock() - before, processes.memory(service.pid, "VmHWM")
    metrics = json.loads((out / "summary.json").read_text())["metrics"]
    value = lambda name, field: metrics.get(name, {}).get("values", {}).get(field, 0)
    segments = value("segments", "count")
    if not segments:
        raise Failed("k6 got no segments")
    found = {"p95": value("segment_latency", "p(95)"), "median": value("segment_latency", "med"), "lost": value("segments_lost", "count"),
             "failed": value("segment_errors", "rate"), "rejected": value("sessions_rejected", "rate"), "lag": value("pace_lag", "p(95)"),
             "segments": segments, "cost": took / segments, "k6": used.cpu / segments, "memory": memory}
    bench.say(f"  {count} users, {target}: {found}")
    return found
