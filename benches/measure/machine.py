"""The machine and the programs that measures were made with, in words."""
import os
import platform
import subprocess

from . import peers


def processors():
    return len(os.sched_getaffinity(0))


def describe(bench):
    model = "a processor"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    programs = [f"{name} {peers.version(program)}" for name, program in bench.ffmpegs.items()]
    gst = subprocess.run(["gst-launch-1.0", "--version"], capture_output=True, text=True).stdout.split("\n")
    programs.append(next((line for line in gst if line.startswith("GStreamer")), "no GStreamer tools"))
    return f"{bench.processors} processors ({model}), {memory:.0f} GiB, Linux {platform.release()}; {', '.join(programs)}"


def commit(top):
    """Of the tree, with a word where it has changes that are not committed."""
    run = lambda *command: subprocess.run(["git", *command], cwd=top, capture_output=True, text=True).stdout.strip()
    name = run("rev-parse", "--short", "HEAD") or "no commit"
    return name + (" with changes" if run("status", "--porcelain", "--untracked-files=no") else "")
