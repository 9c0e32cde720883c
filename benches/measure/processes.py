"""Processes that are measured: started, waited for, and ended by their id whatever happens.

What a process took is the kernel's account of it: of a child that has ended by wait4, of one that runs by its clock and by
/proc. What is measured is left to others.
"""
import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

TICK = os.sysconf("SC_CLK_TCK")
# What takes longer hangs.
PATIENCE_S = 900

# All that runs and was started here.
_running = {}
_lock = threading.Lock()
_spent = [0.0]


class Failed(Exception):
    """A program that is measured did not do its work: the row it belongs to is not measured."""


@dataclass
class Used:
    """Seconds of processor time (user and kernel), seconds by the clock, and the most memory in bytes."""

    cpu: float
    wall: float
    peak: int = 0


def start(command, **more):
    """A child that `end_all` knows of."""
    with _lock:
        child = subprocess.Popen([str(part) for part in command], **more)
        _running[child.pid] = child
    return child


def forget(child):
    with _lock:
        _running.pop(child.pid, None)


def end(child):
    """Ends a child, gently for 10 s."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    forget(child)


def end_all():
    with _lock:
        left = list(_running.values())
    for child in left:
        _kill(child.pid)
    for child in left:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, 0)


def _kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def account(seconds):
    """Processor time of what was started here, for `Others`."""
    with _lock:
        _spent[0] += seconds


def has_ended(child):
    """Whether it has, and is still to be waited for."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def interrupt(child):
    """What Ctrl-C does to it. (`send_signal` of one that has ended would wait for it, and its account were gone.)"""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGINT)


def finish(child, begun):
    """Waits for a child, and says what it and what it waited for took since `begun`."""
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    forget(child)
    account(usage.ru_utime + usage.ru_stime)
    return Used(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)


def measure(command, log, patience=PATIENCE_S, **more):
    """Runs a program to its end, or ends it after `patience`, seconds. Its words go to the file `log`; a failure has the last of them."""
    with open(log, "wb") as words:
        begun = time.monotonic()
        child = start(command, stdin=subprocess.DEVNULL, stdout=more.pop("stdout", words), stderr=words, **more)
        watch = threading.Timer(patience, _kill, [child.pid])
        watch.start()
        used = finish(child, begun)
        watch.cancel()
    if child.returncode != 0:
        with open(log, "rb") as words:
            last = words.read()[-600:].decode(errors="replace")
        raise Failed(f"{os.path.basename(str(command[0]))} ended with {child.returncode}: {last}")
    return used


def clock(pid):
    """Processor seconds of a process that runs, all its threads, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | 2)


def _stat(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as line:
            found += [int(child) for child in line.read().split()]
    return found


def tree_clock(pid):
    """As `clock`, with the children: those that run, and those that were waited for."""
    fields = _stat(pid)
    reaped = (int(fields[13]) + int(fields[14])) / TICK
    total = clock(pid) + reaped
    for child in children(pid):
        with contextlib.suppress(OSError):
            total += clock(child)
    return total


def memory(pid, field):
    """A line of /proc/PID/status, such as VmRSS or VmHWM, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


class Others:
    """What other programs of this machine used of its processors since, in processors."""

    def __init__(self):
        self.began, self.busy, self.ours = time.monotonic(), self._busy(), _spent[0] + time.process_time()

    @staticmethod
    def _busy():
        with open("/proc/stat") as stat:
            user, nice, system, _idle, _wait, hard, soft, stolen = map(int, stat.readline().split()[1:9])
        return (user + nice + system + hard + soft + stolen) / TICK

    def share(self):
        wall = time.monotonic() - self.began
        ours = _spent[0] + time.process_time() - self.ours
        return max(0.0, (self._busy() - self.busy - ours) / wall) if wall > 0 else 0.0
