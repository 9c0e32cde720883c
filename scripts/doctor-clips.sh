#!/usr/bin/env bash
# Makes the clips of `segmill doctor` again: four pictures, or a fifth of a second of sound, in each codec.
set -euo pipefail
cd "$(dirname "$0")/../src/cli/doctor/clips"

make() { # FILE CODEC-ARGUMENTS…
    local file=$1 source
    shift
    case $file in
        aac.* | opus.* | mp3.* | ac3.* | eac3.*) source=(-f lavfi -i sine=f=440:r=48000 -t 0.2 -ac 1 -b:a 32k) ;;
        *) source=(-f lavfi -i testsrc2=s=64x64:r=25 -frames:v 4) ;;
    esac
    local format
    case $file in
        *.mp4) format=(-movflags frag_keyframe+empty_moov+default_base_moof -f mp4) ;;
        *.webm) format=(-f webm) ;;
        *.ts) format=(-f mpegts) ;;
    esac
    ffmpeg -v error -y -bitexact "${source[@]}" "$@" -flags +bitexact "${format[@]}" "$file"
}

make h264.mp4 -c:v libx264 -preset veryfast -pix_fmt yuv420p
make h265.mp4 -c:v libx265 -preset ultrafast -x265-params info=0:log-level=none -pix_fmt yuv420p -tag:v hvc1
make vp8.webm -c:v libvpx -b:v 50k
make vp9.webm -c:v libvpx-vp9 -b:v 50k -pix_fmt yuv420p
make av1.mp4 -c:v libsvtav1 -preset 12 -crf 50 -pix_fmt yuv420p
make mpeg2.ts -c:v mpeg2video -q:v 20
make aac.mp4 -c:a aac
make opus.webm -c:a libopus
make mp3.ts -c:a libmp3lame
make ac3.ts -c:a ac3
make eac3.ts -c:a eac3
