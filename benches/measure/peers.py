"""What Segmill is compared with: FFmpeg, the system's and the newest static one, as one continuous process and as a process
a segment; and GStreamer's own launcher. All make the same renditions with the same settings of the same encoders.

The settings are those of src/worker/encoder.rs and src/worker/audio.rs; each rung is made from the next larger one, by a
bicubic filter, as src/worker/video.rs does it.
"""
import os
import shutil
import subprocess
import time
import venv
from concurrent.futures import ThreadPoolExecutor

from .clips import FRAGMENTED
from .processes import Failed, Used, measure

X264 = "scenecut=0:stitchable=1:open-gop=0"
AAC = ["-c:a", "aac", "-aac_coder", "fast", "-aac_ms", "0", "-b:a", "128k"]
IMAGEIO_FFMPEG = "imageio-ffmpeg"


def find_ffmpegs(bench):
    """By name: the system's, and that of the PyPI package imageio-ffmpeg in a virtual environment of its own."""
    found = {}
    system = shutil.which("ffmpeg")
    if system:
        found["the system's ffmpeg"] = system
    environment = bench.tools / "imageio-ffmpeg"
    if not list(environment.glob("lib/*/site-packages/imageio_ffmpeg/binaries/ffmpeg-*")):
        bench.say("getting a static ffmpeg from the package imageio-ffmpeg")
        try:
            venv.create(environment, with_pip=True, clear=True)
            pip = [environment / "bin/python", "-m", "pip", "install", "-q", "--only-binary=:all:", IMAGEIO_FFMPEG]
            subprocess.run(pip, check=True, timeout=600, capture_output=True)
        except (OSError, subprocess.SubprocessError) as error:
            bench.say(f"it can't be had: {error}")
    for path in environment.glob("lib/*/site-packages/imageio_ffmpeg/binaries/ffmpeg-*"):
        if os.access(path, os.X_OK):
            found["static ffmpeg"] = str(path)
    return found


def version(program):
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
    return told.split()[2]


def ladder(program, clip, rungs, out, gop):
    """A command that makes all rungs ((width, height), the largest first) of a clip into files; a key frame every `gop`
    pictures, or where that is None only the first."""
    keys = f"keyint={gop}:min-keyint={gop}" if gop else "keyint=infinite"
    chain, link = [], "0:v"
    for place, (width, height) in enumerate(rungs):
        # The top rung is of the source's size.
        scale = f"scale={width}:{height}:flags=bicubic" if place else "null"
        last = place + 1 == len(rungs)
        chain.append(f"[{link}]{scale}[v{place}]" if last else f"[{link}]{scale},split=2[v{place}][s{place}]")
        link = f"s{place}"
    command = [program, "-v", "error", "-nostdin", "-y", "-i", clip, "-filter_complex", ";".join(chain)]
    for place, (_, height) in enumerate(rungs):
        command += ["-map", f"[v{place}]", "-fps_mode", "passthrough", "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-profile:v", "high",
                    "-x264-params", f"{X264}:{keys}", *FRAGMENTED, f"{out}-{height}.mp4"]
    return command


def copy(program, clip, out, sound):
    """A command that copies a clip, and where `sound` encodes its sound again."""
    return [program, "-v", "error", "-nostdin", "-y", "-i", clip, "-c:v", "copy", *(AAC if sound else ["-c:a", "copy"]),
            *FRAGMENTED, out]


def gst_ladder(clip, rungs, out, gop):
    x264 = ["x264enc", "speed-preset=veryfast", "pass=qual", "quantizer=23", "bitrate=400000", "vbv-buf-capacity=0",
            f"key-int-max={gop}", f"option-string={X264}:min-keyint={gop}"]
    line = ["filesrc", f"location={clip}", "!", "qtdemux", "!", "h264parse", "!", "avdec_h264", "!"]
    for place, (width, height) in enumerate(rungs):
        if place:
            line += [f"t{place - 1}.", "!", "queue", "!", "videoscale", "method=catrom", "!"]
        line += [f"video/x-raw,width={width},height={height}", "!", "tee", f"name=t{place}"]
        line += [f"t{place}.", "!", "queue", "!", *x264, "!", "video/x-h264,profile=high", "!", "h264parse", "!",
                 "mp4mux", "fragment-duration=2000", "!", "filesink", "async=false", f"location={out}-{height}.mp4"]
    return [gst(), "-q", *line]


def gst_copy(clip, out, sound):
    recoded = "avdec_aac ! audioconvert ! avenc_aac aac-coder=fast aac-ms=false bitrate=128000 ! aacparse !".split()
    return [gst(), "-q", "filesrc", f"location={clip}", "!", "qtdemux", "name=d", "mp4mux", "name=m", "fragment-duration=2000",
            "!", "filesink", f"location={out}", "d.video_0", "!", "queue", "!", "h264parse", "!", "m.",
            "d.audio_0", "!", "queue", "!", "aacparse", "!", *(recoded if sound else []), "m."]


def gst():
    found = shutil.which("gst-launch-1.0")
    if not found:
        raise Failed("there is no gst-launch-1.0 here")
    return found


# No segment takes a process so long.
PIECE_S = 120


def run(bench, command):
    return measure(command, bench.scratch / "peer.log")


def run_each(bench, commands, at_once=1):
    """Processes, one after the other or `at_once`: what they took together, and the most memory of one."""
    begun = time.monotonic()
    # Some fail without an end: gst-launch, of clips that it does not understand.
    one = lambda numbered: measure(numbered[1], bench.scratch / f"peer-{numbered[0] % at_once}.log", PIECE_S)
    with ThreadPoolExecutor(at_once) as pool:
        used = list(pool.map(one, enumerate(commands)))
    wall = time.monotonic() - begun
    return Used(sum(each.cpu for each in used), wall, max(each.peak for each in used))
