#!/usr/bin/env python3
"""How long a worker takes from its start to its hello, as the service starts it, in milliseconds.

    measure-worker-start.py BINARY [LIBRARIES]

With LIBRARIES, a folder, in turn with and without these in the place of the system's (deploy/image/ffmpeg.sh makes some).
"""
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TIMES = 9


def start(binary, environment):
    ours, theirs = socket.socketpair()
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [binary, "worker", "--memory", str(8 << 30), "--cpu", "3600"]
    worker = subprocess.Popen(command, stdin=theirs, env=environment, stderr=subprocess.DEVNULL)
    theirs.close()
    ours.recv(1)
    wall = time.monotonic() - begun
    ours.close()
    worker.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall * 1e3, (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3


def main():
    binary, *libraries = sys.argv[1:]
    plain = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    with tempfile.TemporaryDirectory() as folder:
        ways = {"the system's libraries": plain}
        for path in libraries:
            registry = os.path.join(folder, "registry")
            ways[path] = dict(plain, LD_LIBRARY_PATH=path, GST_REGISTRY_1_0=registry)
        for environment in ways.values():
            start(binary, environment)
        taken = {name: [] for name in ways}
        for _ in range(TIMES):
            for name, environment in ways.items():
                taken[name].append(start(binary, environment))
    for name, times in taken.items():
        wall, cpu = ([time[n] for time in times] for n in (0, 1))
        print(f"{name}: wall {statistics.median(wall):.0f} (least {min(wall):.0f}), "
              f"processor {statistics.median(cpu):.0f} (least {min(cpu):.0f})")


main()
