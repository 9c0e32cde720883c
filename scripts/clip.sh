#!/usr/bin/env bash
# Prints the path of the load test's clip, and makes it where it is not there yet: a minute of 720p25 at 1.5 Mb/s, a key frame
# every two seconds, in fragments of 200 ms, as a live encoder sends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

script=clip
source scripts/local.sh
get_clip >&2
made=$PWD/target/loadtest/clip-of-${clip##*/}
if [[ ! -s $made ]]; then
    echo "clip: making $made" >&2
    mkdir -p "${made%/*}"
    ffmpeg -v error -nostdin -y -stream_loop 1 -i "$clip" -t 60 -vf scale=1280:720:flags=bicubic,fps=25 \
        -c:v libx264 -preset veryfast -b:v 1370k -maxrate 1500k -bufsize 1500k -pix_fmt yuv420p \
        -g 50 -keyint_min 50 -sc_threshold 0 -c:a aac -b:a 128k -ac 2 \
        -movflags frag_keyframe+empty_moov+default_base_moof -frag_duration 200000 -f mp4 "$made.part" >&2
    mv "$made.part" "$made"
fi
echo "$made"
