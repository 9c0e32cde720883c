"""Many live sessions at the pace of their media, and what they cost: crowd.py has the users, on the same processors, this the service
and the verdict. Once more by k6, of which loadtest/ is made, to compare: it needs more of the processors than the service does.
"""
import json
import os
import subprocess
import sys
import time

from . import processes
from .processes import Failed
from .service import Service

# What is made of each user's stream, as loadtest/profiles.js has it: what it is called, and what it is.
COPY = ("all copied", [{"name": "source", "video": {"codec": "copy"}, "audio": {"codec": "copy"}}])
AUDIO = ("video copied, sound encoded", [{"name": "video", "video": {"codec": "copy"}}, {"name": "audio", "audio": {"codec": "aac", "kbps": 128}}])
RUNS = {"users-copy": (500, COPY), "users-audio": (100, AUDIO), "server-100": (100, COPY)}
# For how long all users are there; and until k6 has none begin any more.
STAY_S, K6_S = 30, 60
COLUMNS = ["users", "what is made", "client", "latency p95 while all are there, s", "p95, s", "median, s", "lost", "failed", "segments",
           "service's processor time a segment, ms", "client's, ms", "server's most memory, MB", "client late itself, p95, ms"]


def users(bench, part):
    clip = _told(bench, "scripts/clip.sh")
    lines = []
    for key, (count, made) in RUNS.items():
        run = _measure(bench, _crowd, clip, bench.pick(count // 20, count), made)
        lines.append(run["line"])
        if key == "server-100":
            part.row(key, f"{run['memory'] / (1 << 20):.0f} MiB", bench.pick(None, run["memory"] <= 150 << 20))
        else:
            good = run["all_there"] and run["p95_there"] <= 500 and not (run["lost"] or run["failed"] or run["rejected"] or run["wrong"])
            part.row(key, f"{run['p95_there'] / 1e3:.2f} s, {run['lost']}; {run['failed'] * 100:.1f} % failed, {run['rejected'] * 100:.0f} % of the "
                     "attempts turned away" + "".join(f"; {what}: {times}" for what, times in run["wrong"].items()), bench.pick(None, bool(good)))
    count, made = RUNS["users-copy"]
    try:
        lines.insert(1, _measure(bench, _k6, clip, bench.pick(count // 20, count), made)["line"])
    except Failed as error:
        bench.say(f"  not compared with k6: {error}")
    part.table("Live sessions", COLUMNS, lines,
               "Users come a tenth of a second apart, each with 720p25 at 1.5 Mb/s in fragments of 200 ms, at its pace; latency is from the sending of "
               "a segment's last byte to the arrival of the last byte made of it, with the wait for the next fragment in it. `crowd` is "
               f"benches/measure/crowd.py: all are there for {bench.pick(5, STAY_S)} s at least, and the bars are held against its numbers. `k6` is "
               "loadtest/, to compare: each user plays a minute, and where k6 is late itself, what it measures is k6.")


def _told(bench, script):
    done = subprocess.run([bench.top / script], capture_output=True, text=True, cwd=bench.top)
    if done.returncode:
        raise Failed(f"{script}: {done.stderr[-300:]}")
    return done.stdout.split()[-1]


def _measure(bench, client, clip, count, made):
    """What `client` found, times in ms, with what it took itself and what the service did; and the line of the table."""
    words, outputs = made
    with Service(bench, "--max-sessions", "1100") as service:
        before = service.clock()
        found, used = client(bench, service, clip, count, outputs)
        took, memory = service.clock() - before, processes.memory(service.pid, "VmHWM")
    segments, name = found["segments"], client.__name__.strip("_")
    if not segments:
        raise Failed(f"{name} got no segments: {found}")
    there = f"{found['p95_there'] / 1e3:.2f}" if found["all_there"] else "–"
    line = [count, words, name, there, f"{found['p95'] / 1e3:.2f}", f"{found['median'] / 1e3:.2f}", found["lost"], f"{found['failed'] * 100:.1f} %",
            segments, f"{took / segments * 1e3:.2f}", f"{used.cpu / segments * 1e3:.2f}", f"{memory / 1e6:.0f}", f"{found['late']:.0f}"]
    bench.say("  " + ", ".join(f"{column}: {cell}" for column, cell in zip(COLUMNS, line)))
    return found | {"memory": memory, "line": line}


def _crowd(bench, service, clip, count, outputs):
    command = [sys.executable, "-B", "-m", "measure.crowd", "--port", service.port, "--clip", clip, "--users", count,
               "--outputs", json.dumps(outputs), "--stay", bench.pick(5, STAY_S)]
    told = bench.scratch / "crowd.json"
    with open(told, "wb") as words:
        used = processes.measure(command, bench.scratch / "crowd.log", stdout=words, cwd=bench.top / "benches")
    found = json.loads(told.read_text())
    for complaint in found["complaints"]:
        bench.say(f"  {complaint}")
    latency = found["latency"] or {"p95": 0, "median": 0}
    all_there = found["all_there"]
    return {"p95": latency["p95"], "median": latency["median"], "p95_there": (all_there or latency)["p95"], "all_there": all_there is not None,
            "lost": found["lost"], "failed": (found["failed"] + found["lost"]) / max(1, found["segments"] + found["lost"]),
            "rejected": found["rejected"] / max(1, found["rejected"] + found["sessions"]), "wrong": found["wrong"],
            "segments": found["segments"], "late": found["late"]["p95"] if found["late"] else 0}, used


def _k6(bench, service, clip, count, outputs):
    k6, out, log = _told(bench, "scripts/k6.sh"), bench.folder / "users", bench.scratch / "k6.log"
    out.mkdir(exist_ok=True)
    environment = dict(os.environ, URL=service.url, CLIP=clip, OUT=str(out), USERS=str(count), DURATION=f"{bench.pick(1, K6_S)}s",
                       TARGET=json.dumps(outputs), PROFILE="standard")
    with open(log, "wb") as words:
        child = processes.start([k6, "run", "--no-usage-report", "--address", "", "--quiet", "loadtest/stream.js"], cwd=bench.top, env=environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words)
        used = processes.finish(child, time.monotonic())
    # 99: a threshold did not hold; what came of it is in the summary.
    if child.returncode not in (0, 99):
        raise Failed(f"k6 ended with {child.returncode}: {log.read_text(errors='replace')[-300:]}")
    metrics = json.loads((out / "summary.json").read_text())["metrics"]
    value = lambda name, field: metrics.get(name, {}).get("values", {}).get(field, 0)
    return {"p95": value("segment_latency", "p(95)"), "median": value("segment_latency", "med"), "all_there": False,
            "lost": int(value("segments_lost", "count")), "failed": value("segment_errors", "rate"), "segments": int(value("segments", "count")),
            "late": value("pace_lag", "p(95)")}, used
