"""Video copied, with and without its sound encoded again: what a segment of 2 s costs a running service, and what it costs where a
process is started for it."""
from . import peers
from .processes import Failed
from .results import median
from .service import Service

# Names of ways to do it, beside "a segment a process" of each FFmpeg.
SEGMILL = "Segmill"
COPY = [{"name": "source", "video": {"codec": "copy"}, "audio": {"codec": "copy"}}]
SOUND = [{"name": "source", "video": {"codec": "copy"}, "audio": {"codec": "aac", "kbps": 128}}]


def copy(bench, part):
    clip = bench.clips.live("720p25", 60, 3000, loops=11)
    each = compare(bench, part, clip, COPY, sound=False, times=bench.pick(1, 10))
    ours = each[SEGMILL]
    part.row("copy", f"{ours * 1e3:.2f} ms", ours <= 2e-3)
    for key, name, least in (("copy-static", "static ffmpeg", 25), ("copy-system", "the system's ffmpeg", 50)):
        theirs = each.get(a_segment(name))
        if theirs:
            part.row(key, f"1/{theirs / ours:.0f} ({theirs * 1e3:.0f} ms)", theirs / ours >= least)
    part.bars("copy", "Video and sound copied: processor time for 2 s of 720p25 at 3 Mb/s", "ms", {name: took * 1e3 for name, took in each.items()})


def audio(bench, part):
    clip = bench.clips.live("720p25", 60, 3000, loops=11)
    each = compare(bench, part, clip, SOUND, sound=True, times=bench.pick(1, 2))
    ours = each[SEGMILL]
    theirs = {name: each[a_segment(name)] for name in bench.ffmpegs}
    if theirs:
        name, least = min(theirs.items(), key=lambda item: item[1])
        part.row("audio", f"{ours / least:.2f} ({ours * 1e3:.1f} ms to {least * 1e3:.1f} ms of {name})", ours / least <= 1 / 3)
    part.bars("audio", "Sound encoded again, video copied: processor time for 2 s", "ms", {name: took * 1e3 for name, took in each.items()})


def a_segment(name):
    return f"{name}, a process a segment"


def compare(bench, part, clip, outputs, sound, times):
    """Processor seconds for a segment of each way, medians of rounds in turn."""
    long = bench.clips.looped(clip, times) if times > 1 else clip
    pieces = bench.clips.pieces(clip, bench.pick(4, 30))
    out = bench.scratch / "copied.mp4"
    each = lambda number: bench.scratch / f"copied-{number}.mp4"
    ways = {SEGMILL: None}
    for name, program in bench.ffmpegs.items():
        ways[a_segment(name)] = lambda program=program: _pieces(bench, [peers.copy(program, piece, each(number), sound) for number, piece in enumerate(pieces)])
        ways[f"{name}, continuous"] = lambda program=program: _whole(bench, peers.copy(program, clip, out, sound), out)
    ways[a_segment("gst-launch")] = lambda: _pieces(bench, [peers.gst_copy(piece, each(number), sound) for number, piece in enumerate(pieces)])
    taken = {name: [] for name in ways}
    with Service(bench) as service:
        service.warm(bench.clips.beginning(clip, 4), outputs)
        for number in range(bench.rounds):
            for name, way in list(ways.items()):
                try:
                    taken[name].append(_segmill(service, long, outputs) if name == SEGMILL else way())
                except Failed as error:
                    # A peer that can't do this clip leaves the others.
                    if name == SEGMILL:
                        raise
                    bench.say(f"  {name} can't: {str(error).splitlines()[0]}")
                    del ways[name], taken[name]
                    continue
                cpu, wall, peak = taken[name][-1]
                bench.say(f"  round {number + 1}: {name}: {cpu * 1e3:.2f} ms of processor time, {wall * 1e3:.2f} ms by the clock, a segment")
        workers = service.peak_of_workers()
    columns = ["a segment of 2 s, median", "processor time, ms", "from to", "by the clock, ms", "most memory of a process, MB"]
    lines = []
    for name, rounds in taken.items():
        cpu, wall, peak = zip(*rounds)
        lines.append([name, f"{median(cpu) * 1e3:.2f}", f"{min(cpu) * 1e3:.2f} to {max(cpu) * 1e3:.2f}", f"{median(wall) * 1e3:.2f}", f"{max(peak) / 1e6:.0f}"])
    title = "Sound encoded again, video copied" if sound else "Video and sound copied"
    note = f"720p25 at 3 Mb/s, stereo AAC, {bench.rounds} rounds in turn; {len(pieces)} processes a round, as many at once as there are processors. Segmill is the server and its workers"
    note += f" (a worker's most memory: {workers / 1e6:.0f} MB)." if sound else "."
    part.table(title, columns, lines, note)
    return {name: median([cpu for cpu, _, _ in rounds]) for name, rounds in taken.items()}


def _segmill(service, clip, outputs):
    from .processes import memory
    pushed = service.push(clip, outputs)
    return pushed.used.cpu / pushed.segments, pushed.used.wall / pushed.segments, memory(service.pid, "VmHWM")


def _pieces(bench, commands):
    # A processor that shares its core with another takes longer for the same, and a service has all of them at work.
    used = peers.run_each(bench, commands, at_once=bench.processors)
    return used.cpu / len(commands), used.wall / len(commands), used.peak


def _whole(bench, command, _out, seconds=60):
    used = peers.run(bench, command)
    return used.cpu / (seconds / 2), used.wall / (seconds / 2), used.peak
