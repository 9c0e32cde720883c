"""Demuxers, muxers and the frames to a worker by themselves: benches/media.rs, run by cargo, and what divan prints of it read."""
import re
import subprocess

from .processes import Failed

SCALE = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
SECONDS = {"ps": 1e-12, "ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1}
# Of these the bar speaks.
JUDGED = ("demux", "mux")


def media(bench, part):
    done = subprocess.run(["cargo", "bench", "--locked", "--bench", "media"], capture_output=True, text=True, cwd=bench.top)
    if done.returncode:
        raise Failed(f"cargo bench: {done.stderr[-300:]}")
    found = read(done.stdout)
    if not any(name.startswith(JUDGED) for name in found):
        raise Failed("cargo bench measured nothing")
    lines = []
    for name, one in found.items():
        bench.say(f"  {name}: {one['bytes'] / 1e9:.2f} GB/s, {one['allocations']:.2f} allocations an access unit")
        lines.append([name, f"{one['bytes'] / 1e9:.2f}", f"{one['allocations']:.2f}", f"{one['items'] / 1e6:.2f}"])
    part.table("Demuxers, muxers, frames", ["", "GB/s", "allocations an access unit", "million access units a second"], lines,
               "`cargo bench --bench media`: 720p25 at 3 Mb/s with stereo AAC, in chunks of 64 KiB, one processor, medians.")
    judged = {name: one for name, one in found.items() if name.startswith(JUDGED)}
    slowest = min(judged, key=lambda name: judged[name]["bytes"])
    most = max(judged, key=lambda name: judged[name]["allocations"])
    rate, allocations = judged[slowest]["bytes"], judged[most]["allocations"]
    part.row("media", f"{rate / 1e9:.2f} GB/s ({slowest}), {allocations:.2f} ({most})", rate >= 1e9 and allocations <= 1)
    part.bars("media", "Demuxers, muxers, frames: bytes a second on one processor", "GB/s", {name: one["bytes"] / 1e9 for name, one in found.items()})


def read(printed):
    """By name, the medians that divan prints: `bytes` and `items` a second, `allocations` an item."""
    found, group, name, heading = {}, "", "", ""
    for line in printed.splitlines():
        tree = re.match(r"^([│ ]*)([├╰]─ )?", line)
        cells = [cell.strip() for cell in line[tree.end():].split("│")]
        if len(cells) < 4:
            continue
        if tree.group(2):
            name, _, fastest = cells[0].partition(" ")
            inner = bool(tree.group(1).strip(" ") or tree.group(1))
            if not fastest.strip():
                group = name
                continue
            name = f"{group} {name}" if inner and group else name
            found[name] = {"seconds": _time(cells[2])}
            heading = ""
        elif cells[0].endswith(":"):
            heading = cells[0]
        elif name in found and cells[2]:
            _note(found[name], heading, cells[2])
    for one in found.values():
        one["allocations"] = one.get("count", 0) / (one["items"] * one["seconds"])
    return found


def _note(one, heading, cell):
    number, _, unit = cell.partition(" ")
    if unit.endswith("B/s"):
        one["bytes"] = float(number) * SCALE[unit[:-3]]
    elif unit.endswith("item/s"):
        one["items"] = float(number) * SCALE[unit[:-6]]
    elif heading in ("alloc:", "grow:") and not unit.endswith("B"):
        one["count"] = one.get("count", 0) + float(number) * SCALE[unit]


def _time(cell):
    number, _, unit = cell.partition(" ")
    return float(number) * SECONDS[unit]
