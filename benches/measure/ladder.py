"""A ladder of four rungs, saturated: processor time, time by the clock, memory and bytes of each way to make it; and how much memory
a worker takes for it."""
import shutil

from . import peers, quality
from .results import median
from .service import Service

RUNGS = {1080: (1920, 1080), 720: (1280, 720), 480: (854, 480), 360: (640, 360)}
SEGMILL, AUTO, GST = "Segmill", "Segmill, `auto`", "gst-launch, continuous"


def sizes(top):
    return [size for height, size in RUNGS.items() if height <= top]


def wanted(rungs):
    return [{"name": str(height), "video": {"codec": "h264", "width": width, "height": height, "crf": 23, "preset": "veryfast"}}
            for width, height in rungs]


def continuous(name):
    return f"{name}, continuous"


def a_segment(name):
    return f"{name}, a process a segment"


class Race:
    """The ways to make the rungs of one clip, in turn."""

    def __init__(self, bench, clip, rungs, gop):
        self.bench, self.clip, self.rungs, self.gop = bench, clip, rungs, gop
        self.out = bench.folder / "ladder"
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        self.taken, self.size = {}, {}

    def segmill(self, service, name, outputs):
        out = self.out / "segmill"
        shutil.rmtree(out, ignore_errors=True)
        pushed = service.push(self.clip, outputs, out=out)
        self._note(name, pushed.used, pushed.bytes)
        self.client = pushed.client.cpu

    def whole(self, name, command):
        self._note(name, peers.run(self.bench, command), self._written(self._prefix(name)))

    def each(self, name, program, pieces):
        prefix = self._prefix(name)
        commands = [peers.ladder(program, piece, self.rungs, f"{prefix}-{number}", None) for number, piece in enumerate(pieces)]
        self._note(name, peers.run_each(self.bench, commands, at_once=self.bench.processors), self._written(prefix))

    def _prefix(self, name):
        return self.out / name.replace(" ", "-").replace("'", "").replace(",", "")

    def _written(self, prefix):
        return sum(file.stat().st_size for file in self.out.glob(f"{prefix.name}-*.mp4"))

    def _note(self, name, used, size):
        self.taken.setdefault(name, []).append(used)
        self.size[name] = size
        self.bench.say(f"  {name}: {used.cpu:.2f} s of processor time, {used.wall:.2f} s by the clock, {used.peak / 1e6:.0f} MB, {size / 1e6:.2f} MB out")

    def cpu(self, name):
        return median([used.cpu for used in self.taken[name]])

    def wall(self, name):
        return median([used.wall for used in self.taken[name]])

    def peak(self, name):
        return max(used.peak for used in self.taken[name])

    def lines(self):
        return [[name, f"{self.cpu(name):.2f}", f"{self.wall(name):.2f}", f"{self.peak(name) / 1e6:.0f}", f"{self.size[name] / 1e6:.2f}"] for name in self.taken]

    def whole_command(self, name, program):
        return peers.ladder(program, self.clip, self.rungs, self._prefix(continuous(name)), self.gop)


COLUMNS = ["median", "processor time, s", "by the clock, s", "most memory of a process, MB", "out, MB"]


def ladder(bench, part):
    seconds = bench.pick(4, 30)
    clip = bench.clips.live("1080p24", seconds, 8000)
    rungs = sizes(1080)
    race = Race(bench, clip, rungs, gop=48)
    pieces = bench.clips.pieces(clip, 1000)
    with Service(bench) as service:
        service.warm(bench.clips.beginning(clip, 4), wanted(rungs))
        for _ in range(bench.pick(1, bench.rounds)):
            race.segmill(service, AUTO, None)
            race.segmill(service, SEGMILL, wanted(rungs))
            for name, program in bench.ffmpegs.items():
                race.whole(continuous(name), race.whole_command(name, program))
                race.each(a_segment(name), program, pieces)
            race.whole(GST, peers.gst_ladder(clip, rungs, race._prefix(GST), gop=48))
    part.table("A ladder of four rungs", COLUMNS, race.lines(),
               f"1080p24 at 8 Mb/s, a key frame every 2 s, {seconds} s, to 1080, 720, 480 and 360, x264 `veryfast` CRF 23. Memory of "
               f"Segmill: of one worker. Processes a segment run {bench.processors} at once. `push`, the client, took another {race.client:.2f} s.")
    verdicts(bench, part, race)
    part.bars("ladder", "1080p24 to four rungs: processor time", "s", {name: race.cpu(name) for name in race.taken})
    part.bars("ladder-wall", "1080p24 to four rungs: time by the clock", "s", {name: race.wall(name) for name in race.taken})
    if "static ffmpeg" in bench.ffmpegs:
        quality.compare(bench, part, clip, rungs, race, [continuous(name) for name in bench.ffmpegs])


def verdicts(bench, part, race):
    """Against the best of the FFmpegs, each by its own measure."""
    for key, way, measure, most in (
        ("ladder-cpu", continuous, race.cpu, 1.00), ("ladder-wall", continuous, race.wall, 0.95),
        ("pieces-cpu", a_segment, race.cpu, 0.93), ("pieces-wall", a_segment, race.wall, 0.80),
        ("auto-cpu", continuous, race.cpu, 0.60), ("worker-1080", continuous, race.peak, 1.00),
    ):
        ours = measure(AUTO if key == "auto-cpu" else SEGMILL)
        ratios = {name: ours / measure(way(name)) for name in bench.ffmpegs}
        if ratios:
            part.row(key, ", ".join(f"{ratio:.2f} of {name}" for name, ratio in ratios.items()), max(ratios.values()) <= most)


def memory_720(bench, part):
    """A worker's most memory on three rungs of 720p."""
    clip = bench.clips.beginning(bench.clips.live("720p25", 60, 3000, loops=11), bench.pick(4, 10))
    rungs = sizes(720)
    race = Race(bench, clip, rungs, gop=50)
    with Service(bench) as service:
        service.warm(bench.clips.beginning(clip, 4), wanted(rungs))
        race.segmill(service, SEGMILL, wanted(rungs))
        for name, program in bench.ffmpegs.items():
            race.whole(continuous(name), race.whole_command(name, program))
    ratios = {name: race.peak(SEGMILL) / race.peak(continuous(name)) for name in bench.ffmpegs}
    part.table("A ladder of three rungs", COLUMNS, race.lines(), f"720p25 at 3 Mb/s, {bench.pick(4, 10)} s, to 720, 480 and 360; one round, for its memory.")
    if ratios:
        part.row("worker-720", ", ".join(f"{ratio:.2f} of {name}" for name, ratio in ratios.items()), max(ratios.values()) <= 1.0)
