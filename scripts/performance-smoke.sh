#!/usr/bin/env bash
# Whether the release build (or PROGRAM) makes a 720p and 480p ladder in at most LIMIT times the processor time of one continuous
# ffmpeg, on this very machine: a wide margin over the 1.02 of docs/performance.md, for what makes all slower by half.
#
#   scripts/performance-smoke.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=${LIMIT:-1.5}
program=${1:-target/release/segmill}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Moving, and as hard on the encoder as film: grain.
ffmpeg -v error -f lavfi -i 'testsrc2=size=1280x720:rate=30:duration=6,noise=alls=8:allf=t' \
    -c:v libx264 -preset veryfast -crf 20 -pix_fmt yuv420p -g 60 "$scratch/clip.mp4"
scripts/measure-ladder.sh "$scratch/clip.mp4" 2 "$program" | tee "$scratch/rounds"

awk -v limit="$limit" '
    /^medians:/ { found = 1; next }
    found && $2 == "ffmpeg" { ffmpeg = $1; next }
    found { segmill = $1 }
    END {
        if (!(ffmpeg > 0 && segmill > 0)) { print "performance: no measure"; exit 1 }
        printf "performance: %.2f times ffmpeg, at most %.2f\n", segmill / ffmpeg, limit
        exit segmill / ffmpeg > limit
    }' "$scratch/rounds"
