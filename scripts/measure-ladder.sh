#!/usr/bin/env bash
# Processor seconds that a 720p and 480p ladder of FILE takes: ffmpeg with its bicubic scaler, and each PROGRAM given
# (this tree's release build where none is), in turn. Prints each round, then the medians.
#
#   scripts/measure-ladder.sh FILE [ROUNDS] [PROGRAM...]
set -euo pipefail

file=${1:?a video file}
rounds=${2:-3}
programs=("${@:3}")
[ ${#programs[@]} -gt 0 ] || programs=("$(dirname "$0")/../target/release/segmill")

port=${PORT:-18080}
scratch=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server"; wait "$server" || true; fi; rm -rf "$scratch"' EXIT

outputs='[{"name":"a","video":{"codec":"h264","height":720,"crf":23}},{"name":"b","video":{"codec":"h264","height":480,"crf":23}}]'
scales='[0:v]split[x][y];[x]scale=-2:720:flags=bicubic[a];[y]scale=-2:480:flags=bicubic[b]'
x264=(-c:v libx264 -preset veryfast -crf 23 -x264-params scenecut=0:keyint=9999)

# Clock ticks of a process and all its children, living and dead.
ticks() {
    local sum=0 pid fields
    for pid in "$1" $(cat /proc/"$1"/task/*/children); do
        read -r -a fields < <(sed 's/.*) //' "/proc/$pid/stat")
        sum=$((sum + fields[11] + fields[12] + fields[13] + fields[14]))
    done
    echo "$sum"
}

measure_segmill() {
    "$1" serve --listen "127.0.0.1:$port" --ops-listen "127.0.0.1:$((port + 1))" 2>"$scratch/log" &
    server=$!
    until curl -fs "http://127.0.0.1:$((port + 1))/health/ready" >"$scratch/ready"; do sleep 0.1; done
    local before after
    before=$(ticks $server)
    "$1" push "$file" --to "ws://127.0.0.1:$port/v1/stream" --out "$scratch/out" --outputs "$outputs" >"$scratch/push" 2>&1 ||
        { cat "$scratch/push" >&2; return 1; }
    after=$(ticks $server)
    kill "$server"
    wait "$server" || true
    server=
    took=$(awk -v n=$((after - before)) -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", n / hz }')
}

measure_ffmpeg() {
    took=$(TIMEFORMAT='%U %S'; { time ffmpeg -v error -y -i "$file" -filter_complex "$scales" \
        -map '[a]' "${x264[@]}" "$scratch/a.mp4" -map '[b]' "${x264[@]}" "$scratch/b.mp4"; } 2>&1 |
        awk '{ printf "%.2f", $1 + $2 }')
}

for ((round = 1; round <= rounds; round++)); do
    measure_ffmpeg
    echo "$took ffmpeg" | tee -a "$scratch/all"
    for program in "${programs[@]}"; do
        measure_segmill "$program"
        echo "$took $program" | tee -a "$scratch/all"
    done
done
echo "medians:"
for name in ffmpeg "${programs[@]}"; do
    awk -v name="$name" '$2 == name { print $1 }' "$scratch/all" | sort -n |
        awk -v name="$name" '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)], name }'
done
