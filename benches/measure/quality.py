"""What the pictures are worth: VMAF of each rung, picture by picture, by the static FFmpeg's libvmaf, against the source brought
to the rung's size; and what becomes of it near the joins of segments."""
import json

from .processes import Failed, measure

NEAR = 3


def scores(bench, made, source, size):
    """VMAF of each picture."""
    log = bench.scratch / "vmaf.json"
    width, height = size
    # One clock and one meaning of the samples for both: where only one of them has it written down, FFmpeg would convert.
    same = "setpts=N/24/TB,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    graph = (f"[0:v]{same}[made];[1:v]{same},scale={width}:{height}:flags=bicubic[source];"
             f"[made][source]libvmaf=log_fmt=json:log_path={log}:n_threads={bench.processors}")
    measure([bench.ffmpegs["static ffmpeg"], "-v", "error", "-nostdin", "-i", made, "-i", source, "-filter_complex", graph, "-f", "null", "-"],
            bench.scratch / "vmaf.log")
    frames = json.loads(log.read_text())["frames"]
    return [frame["metrics"]["vmaf"] for frame in frames]


def joined(folder, to):
    """What `push` has kept of an output, as one file; and the bytes of it."""
    parts = sorted(folder.glob("init-*.mp4")) + sorted(folder.glob("*.m4s"))
    with open(to, "wb") as whole:
        for path in parts:
            whole.write(path.read_bytes())
    return to


def near_joins(values, gop):
    """The mean of the pictures so far from a join, by the distance."""
    joins = range(gop, len(values), gop)
    at = {distance: [values[join + distance] for join in joins if join + distance < len(values)] for distance in range(-NEAR, NEAR + 1)}
    return {distance: sum(all_) / len(all_) for distance, all_ in at.items() if all_}


def compare(bench, part, clip, rungs, race, names):
    lines, worst, worst_join, curves = [], [], [], {}
    bytes_of = dict.fromkeys(["Segmill", *names], 0)
    for size in rungs:
        width, height = size
        made = {"Segmill": joined(race.out / "segmill" / str(height), race.out / f"joined-{height}.mp4")}
        made |= {name: f"{race._prefix(name)}-{height}.mp4" for name in names}
        found = {}
        for name, path in made.items():
            values = scores(bench, path, clip, size)
            mean = sum(values) / len(values)
            joins = near_joins(values, race.gop)
            offset, low = min(joins.items(), key=lambda item: item[1], default=(0, mean))
            length = media_bytes(path)
            bytes_of[name] += length
            found[name] = (mean, low - mean, len(values))
            lines.append([height, name, f"{mean:.2f}", f"{low - mean:+.2f} ({offset:+d})", f"{min(values):.1f}", f"{length / 1e6:.2f}"])
            bench.say(f"  {height}, {name}: VMAF {mean:.2f}, near joins {low - mean:+.2f}, {len(values)} pictures, {length / 1e6:.2f} MB")
            if height == rungs[0][1]:
                curves[name] = [[distance, value - mean] for distance, value in joins.items()]
        if len({pictures for _, _, pictures in found.values()}) != 1:
            raise Failed(f"not the same pictures were made at {height}: {found}")
        worst.append(min(found["Segmill"][0] - found[name][0] for name in names))
        worst_join.append(found["Segmill"][1])
    part.row("vmaf", f"{min(worst):+.2f}", min(worst) >= -0.5)
    ratios = {name: bytes_of["Segmill"] / bytes_of[name] for name in names}
    part.row("bytes", ", ".join(f"{ratio:.3f} of {name}" for name, ratio in ratios.items()), max(ratios.values()) <= 1.02)
    part.row("joins", f"{min(worst_join):+.2f}", min(worst_join) >= -2)
    part.table("What the pictures are worth", ["rung", "made by", "VMAF", "near joins (where)", "the worst picture", "MB"], lines,
               f"Near joins: the mean of all pictures at the same distance from a join, of at most {NEAR}, that is the lowest, against the mean of "
               "all pictures; the mean over joins, since single pictures differ by what is in them. MB: of the encoded pictures alone.")
    part.lines("joins", f"VMAF near joins, {rungs[0][1]}p", "pictures from the join", "VMAF against the mean", curves)


def media_bytes(path):
    """The bytes of a fragmented MP4's `mdat` boxes."""
    total = 0
    with open(path, "rb") as file:
        while head := file.read(8):
            length, kind = int.from_bytes(head[:4]), head[4:]
            skipped = 8
            if length == 1:
                length, skipped = int.from_bytes(file.read(8)), 16
            if kind == b"mdat":
                total += length - skipped
            file.seek(length - skipped, 1)
    return total
