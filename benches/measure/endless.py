"""One session of ten hours at full speed, through `push` from its standard input: what a segment costs and what the server holds,
all along."""
import json
import subprocess
import time

from . import processes
from .processes import Failed
from .results import median
from .service import Service

COPY = [{"name": "source", "video": {"codec": "copy"}, "audio": {"codec": "copy"}}]
POINTS = 60


def endless(bench, part):
    hours = bench.pick(0.25, 10)
    seconds = int(hours * 3600)
    clip = bench.clips.live("480p24", 30, 400)
    every = max(1, seconds // 2 // POINTS)
    media = ["ffmpeg", "-v", "error", "-nostdin", "-stream_loop", "-1", "-i", clip, "-t", seconds, "-c", "copy",
             "-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "1000000", "-f", "mp4", "pipe:1"]
    with Service(bench) as service:
        source = processes.start(media, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        command = [bench.program, "push", "-", "--to", service.url, "--json", "--outputs", json.dumps(COPY)]
        with open(bench.scratch / "push.log", "wb") as log:
            begun = time.monotonic()
            client = processes.start(command, stdin=source.stdout, stdout=subprocess.PIPE, stderr=log)
            source.stdout.close()
            points, summary = _watch(bench, service, client, every)
            processes.finish(client, begun)
            processes.finish(source, begun)
    if client.returncode or not summary or not summary["complete"] or summary["failed"]:
        raise Failed(f"the session did not come to its end: {summary}")
    judge(bench, part, points, summary, hours)


def _watch(bench, service, client, every):
    """(segments, seconds of the server's processor time, bytes of its memory), each `every` segments."""
    points, segments, summary = [], 0, None
    for line in client.stdout:
        if b'"type":"receipt"' in line[:64]:
            segments += 1
            if segments % every == 0:
                points.append((segments, processes.clock(service.pid), processes.memory(service.pid, "VmRSS")))
                if len(points) % 10 == 0:
                    bench.say(f"  {segments} segments: {points[-1][1]:.2f} s of processor time, {points[-1][2] / 1e6:.1f} MB")
        elif b'"type":"summary"' in line:
            summary = json.loads(line)
    return points, summary


def judge(bench, part, points, summary, hours):
    if len(points) < 16:
        raise Failed("too few segments")
    costs = [(later[0], (later[1] - earlier[1]) / (later[0] - earlier[0])) for earlier, later in zip(points, points[1:])]
    quarter = len(points) // 4
    of = lambda values, number: median(values[number * quarter:(number + 1) * quarter])
    memory = [held for _, _, held in points]
    cost = [took for _, took in costs]
    ratio, growth = of(cost, 3) / of(cost, 1), of(memory, 3) / of(memory, 1)
    whole = hours >= 10
    told = f"of {hours:g} h, {summary['segments']:,} segments in {summary['wall_ms'] / 1e3:.0f} s"
    part.row("endless-memory", f"{growth:.3f} ({of(memory, 1) / 1e6:.1f} to {of(memory, 3) / 1e6:.1f} MB; {told})", growth <= 1.05 if whole else None)
    part.row("endless-cost", f"{ratio:.3f} ({of(cost, 1) * 1e3:.2f} to {of(cost, 3) * 1e3:.2f} ms)", ratio <= 1.05 if whole else None)
    part.lines("endless-cost", f"{hours:g} hours in one session: processor time for a segment", "segment", "ms", {"cost": [[n, took * 1e3] for n, took in costs]})
    part.lines("endless-memory", f"{hours:g} hours in one session: memory of the server", "segment", "MB", {"memory": [[n, held / 1e6] for n, _, held in points]})
