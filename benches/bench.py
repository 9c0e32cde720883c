#!/usr/bin/env python3
"""Segmill and its peers, side by side on this machine: `make bench`, and `make bench-quick` for a look in a minute.

    bench.py [--quick] [--only PART,…] [--program SEGMILL] [--rounds N]

Each part measures a few of the bars in measure/bars.py; its result is kept in target/bench as soon as it is there, and
docs/performance.md is written anew from all that are kept. `--quick` takes short clips and one round, prints what it would
write, and judges nothing that takes long media. What a part can't measure here it says, and the page says it too.
"""
import argparse
import os
import pathlib
import signal
import sys
import tempfile
import traceback

from measure import copying, endless, ladder, machine, media, peers, processes, profile, report, sessions, users
from measure.clips import Clips
from measure.results import Part, Store

TOP = pathlib.Path(__file__).resolve().parent.parent

# The name, what measures it, the bars that it is for, and whether it is a part of a quick look.
PARTS = {
    "start": (sessions.start, ["ready", "first"], True),
    "idle": (sessions.idle, ["idle"], True),
    "copy": (copying.copy, ["copy", "copy-static", "copy-system"], True),
    "audio": (copying.audio, ["audio"], True),
    "ladder": (ladder.ladder, ["ladder-cpu", "ladder-wall", "pieces-cpu", "pieces-wall", "auto-cpu", "vmaf", "bytes", "joins", "worker-1080"], True),
    "memory": (ladder.memory_720, ["worker-720"], True),
    "profile": (profile.profile, ["profile"], False),
    "live": (sessions.live, ["live-latency"], True),
    "endless": (endless.endless, ["endless-memory", "endless-cost"], True),
    "media": (media.media, ["media"], False),
    "users": (users.users, ["users-audio", "users-copy", "server-100"], False),
}


class Bench:
    """What all parts share."""

    def __init__(self, arguments, scratch):
        self.top, self.scratch = TOP, pathlib.Path(scratch)
        self.quick = arguments.quick
        self.rounds = arguments.rounds or (1 if self.quick else 3)
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
        self.program = arguments.program or target / "release/segmill"
        self.folder, self.tools = target / "bench", target / "tools"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tools.mkdir(parents=True, exist_ok=True)
        self.command = "make bench-quick" if self.quick else "make bench" + (f" ONLY={arguments.only}" if arguments.only else "")
        self.processors = machine.processors()
        # Which tree a program that was named is of, nobody knows.
        self.commit = "of `--program`" if arguments.program else machine.commit(TOP)
        self.clips = Clips(self)
        self.ffmpegs = peers.find_ffmpegs(self)

    def pick(self, quick, full):
        return quick if self.quick else full

    @staticmethod
    def say(words):
        print(words, flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short clips, one round, nothing written to docs/")
    parser.add_argument("--only", metavar="PART,…", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--program", type=pathlib.Path, help="the release build left out")
    parser.add_argument("--rounds", type=int, help="3 left out, 1 with --quick")
    given = parser.parse_args()
    given.parts = given.only.split(",") if given.only else [name for name, (_, _, quick) in PARTS.items() if quick or not given.quick]
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"no part is called {', '.join(unknown)}")
    return given


def measure(bench, names, store):
    failed = []
    for name in names:
        work, keys, _ = PARTS[name]
        part, others = Part(bench, name), processes.Others()
        bench.say(f"{name}:")
        data = {}
        try:
            work(bench, part)
        except (processes.Failed, OSError, ValueError, KeyError, StopIteration) as error:
            bench.say(f"  not measured: {error}")
            if not isinstance(error, processes.Failed):
                traceback.print_exc()
            failed.append(name)
            data = {"failed": " ".join(str(error).split())[:160], "keys": keys}
        store.keep(name, part.data(others.share()) | data)
        bench.say(f"  others used {others.share():.2f} processors meanwhile")
    return failed


def main():
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))
    with tempfile.TemporaryDirectory(prefix="segmill-bench-") as scratch:
        try:
            bench = Bench(given, scratch)
            store = Store(bench.folder / ("quick.json" if given.quick else "results.json"))
            failed = measure(bench, given.parts, store)
            parts = {name: store.parts[name] for name in PARTS if name in store.parts}
            if given.quick:
                bench.say("\n" + report.markdown(parts, machine.describe(bench)))
            else:
                report.write(TOP / "docs/performance.md", parts, machine.describe(bench))
                bench.say("docs/performance.md is written")
        except KeyboardInterrupt:
            sys.exit("bench: stopped")
        finally:
            processes.end_all()
    sys.exit(f"bench: not measured: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
