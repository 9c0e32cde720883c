#!/usr/bin/env bash
# Streams a clip through a service on this machine and checks, with ffmpeg, what comes back.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

script=demo
source scripts/local.sh
trap 'stop_server || true' EXIT
out=demo-out

cargo build --release --locked
get_clip
start_server

rm -rf "$out"
target/release/segmill push "$clip" --to "ws://127.0.0.1:$port/v1/stream" --out "$out" || fail "the push failed"

[[ -s $out/master.m3u8 ]] || fail "$out/master.m3u8 is missing"
ffprobe -v error -of compact=p=0 -show_entries stream=codec_name,width,height,sample_rate "$out/master.m3u8" | grep . | sort -u
complaints=$(ffmpeg -v warning -i "$out/master.m3u8" -map 0 -f null - 2>&1) || fail "ffmpeg can't read it: $complaints"
[[ -z $complaints ]] || fail "ffmpeg complains: $complaints"
echo "demo: ffmpeg decodes all of it without a warning"

stop_server || fail "the service did not end well on SIGTERM"
echo "demo: the segments are in $out; to watch: ffplay $out/master.m3u8"
