#!/usr/bin/env bash
# Makes the seeds of the corpus: a few frames in every container and codec, by ffmpeg, and messages by hand. Each starts
# with the byte that chooses the chunks. What is there already is left alone, and so is what the fuzzer has found.
set -euo pipefail
cd "$(dirname "$0")"

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

# seed TARGET NAME CHOICE FILE: CHOICE is a byte in octal.
seed() {
    mkdir -p "corpus/$1"
    { printf "\\$3"; cat "$4"; } > "corpus/$1/$2"
}

# clip NAME FORMAT ARGUMENTS…: to the target of its container, whole and in chunks, and to the whole path.
clip() {
    local name=$1 format=$2 target=$3
    shift 3
    ffmpeg -v error -nostdin -y -bitexact \
        -f lavfi -i testsrc2=size=64x64:rate=25:duration=0.24 -f lavfi -i sine=sample_rate=48000:duration=0.24 \
        "$@" -b:a 32k -flags +bitexact -f "$format" pipe:1 > "$made/$name" 2> /dev/null ||
        ffmpeg -v error -nostdin -y -bitexact \
            -f lavfi -i testsrc2=size=64x64:rate=25:duration=0.24 -f lavfi -i sine=sample_rate=48000:duration=0.24 \
            "$@" -b:a 32k -flags +bitexact -f "$format" "$made/$name"
    seed "demux_$target" "$name" 000 "$made/$name"
    seed "demux_$target" "$name-small" 021 "$made/$name"
    seed path "$name" 000 "$made/$name"
}

h264=(-c:v libx264 -preset ultrafast -crf 45 -g 3 -bf 1 -x264-params log-level=0:open-gop=0)
h265=(-c:v libx265 -preset ultrafast -crf 45 -tag:v hvc1 -x265-params log-level=none:keyint=3:bframes=1:open-gop=1)
vp8=(-c:v libvpx -deadline realtime -cpu-used 8 -g 3)
vp9=(-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 3)
av1=(-c:v libsvtav1 -preset 12 -g 3)
mpeg2=(-c:v mpeg2video -g 3)
fragmented=(-movflags frag_keyframe+empty_moov+default_base_moof)
delayed=(-movflags frag_keyframe+delay_moov+default_base_moof)

SVT_LOG=0
export SVT_LOG
clip h264-aac.mp4 mp4 mp4 "${h264[@]}" -c:a aac
clip h264-aac-first.mp4 mp4 mp4 "${h264[@]}" -c:a aac -movflags faststart
clip h264-aac-fragmented.mp4 mp4 mp4 "${h264[@]}" -c:a aac "${fragmented[@]}"
clip h265-eac3-fragmented.mp4 mp4 mp4 "${h265[@]}" -c:a eac3 "${delayed[@]}"
clip vp9-opus.mp4 mp4 mp4 "${vp9[@]}" -c:a libopus -movflags faststart
clip av1-ac3-fragmented.mp4 mp4 mp4 "${av1[@]}" -c:a ac3 "${delayed[@]}"
clip mpeg2-mp3.mp4 mp4 mp4 "${mpeg2[@]}" -c:a libmp3lame -movflags faststart
clip h264-shifted.mp4 mp4 mp4 "${h264[@]}" -c:a aac -output_ts_offset 1 -movflags faststart
clip vp8-opus.webm webm webm "${vp8[@]}" -c:a libopus
clip vp9-opus.webm webm webm "${vp9[@]}" -c:a libopus
clip av1-opus.webm webm webm "${av1[@]}" -c:a libopus
clip h264-aac.mkv matroska webm "${h264[@]}" -c:a aac
clip h264-aac-live.mkv matroska webm "${h264[@]}" -c:a aac -live 1
clip h265-eac3.mkv matroska webm "${h265[@]}" -c:a eac3
clip mpeg2-mp3.mkv matroska webm "${mpeg2[@]}" -c:a libmp3lame
clip h264-aac.ts mpegts ts "${h264[@]}" -c:a aac
clip h264-latm.ts mpegts ts "${h264[@]}" -c:a aac -mpegts_flags latm
clip h265-ac3.ts mpegts ts "${h265[@]}" -c:a ac3
clip h265-eac3.ts mpegts ts "${h265[@]}" -c:a eac3
clip mpeg2-mp3.ts mpegts ts "${mpeg2[@]}" -c:a libmp3lame
clip h264-wrap.ts mpegts ts "${h264[@]}" -c:a aac -output_ts_offset 95443.6

# Set-up bytes: from a container's box of this name on, and elementary streams' first bytes.
# codec NAME CHOICE BOX FILE
codec() {
    local at
    at=$(grep -abo -m 1 "$3" "$made/$4" | head -1 | cut -d: -f1)
    tail -c +$((at + 5)) "$made/$4" | head -c 96 > "$made/box"
    seed codecs "$1" "$2" "$made/box"
}
codec avcc 000 avcC h264-aac-first.mp4
codec hvcc 001 hvcC h265-eac3-fragmented.mp4
codec vpcc 002 vpcC vp9-opus.mp4
codec av1c 004 av1C av1-ac3-fragmented.mp4
codec dops 010 dOps vp9-opus.mp4
codec dac3 013 dac3 av1-ac3-fragmented.mp4
codec dec3 013 dec3 h265-eac3-fragmented.mp4
# elementary NAME CHOICE FORMAT BYTES ARGUMENTS…
elementary() {
    local name=$1 choice=$2 format=$3 bytes=$4
    shift 4
    ffmpeg -v error -nostdin -f lavfi -i testsrc2=size=64x64:rate=25:duration=0.12 \
        -f lavfi -i sine=sample_rate=48000:duration=0.1 "$@" -f "$format" pipe:1 2> /dev/null |
        head -c "$bytes" > "$made/$name" || true
    seed codecs "$name" "$choice" "$made/$name"
}
elementary adts 007 adts 64 -map 1 -c:a aac
elementary mp3 011 mp3 256 -map 1 -c:a libmp3lame
elementary ac3 012 ac3 128 -map 1 -c:a ac3
elementary eac3 012 eac3 128 -map 1 -c:a eac3
elementary mpeg2 014 mpeg2video 256 -map 0 "${mpeg2[@]}"
elementary h264-annexb 015 h264 2048 -map 0 "${h264[@]}"
elementary h265-annexb 015 hevc 2048 -map 0 "${h265[@]}"
elementary vp9 003 ivf 512 -map 0 "${vp9[@]}"
elementary av1 005 obu 512 -map 0 "${av1[@]}"
printf '\021\220' > "$made/asc"
seed codecs asc 006 "$made/asc"
printf '\023\220\126\345\000' > "$made/asc-he"
seed codecs asc-he 006 "$made/asc-he"
# A frame without its header behind the set-up that the header tells: LC at 24 kHz.
{ printf '\023\020'; tail -c +8 ../tests/clips/he-aac.aac | head -c 163; } > "$made/he-aac"
seed codecs he-aac 006 "$made/he-aac"

mkdir -p corpus/protocol corpus/ipc corpus/mux
cat > corpus/protocol/start << 'JSON'
{"type":"start","input":{"container":"auto"},"mode":"live","segment_ms":2000,"deadline_ms":4000,"outputs":[{"name":"720p","container":"cmaf","video":{"codec":"h264","height":720,"crf":23,"max_kbps":2800,"preset":"veryfast"}},{"name":"a","container":"ts","video":{"codec":"copy"},"audio":{"codec":"aac","kbps":128,"channels":2,"sample_rate":44100,"track":0}}]}
JSON
echo -n '{"type":"start"}' > corpus/protocol/start-auto
echo -n '{"type":"finish","channel":0}' > corpus/protocol/finish
echo -n '{"type":"ack","seq":12}' > corpus/protocol/ack
header='{"type":"segment","seq":1,"output":"a","init":null,"start":-1,"duration":2,"timescale":1,"frames":5,"bytes":1,"sha256":"","independent":true,"discontinuity":false}'
printf "\\000\\000\\000\\$(printf '%o' ${#header})%sx" "$header" > corpus/protocol/segment
# A hello, a set-up, a sample, a finish: the tag, then the fields as postcard writes them.
printf '\000\000\000\007\0001.22\000\000' > corpus/ipc/hello
printf '\000\000\000\005\001\000abc\000\000\000\006\002\000\002\001xy\000\000\000\005\003\001\002\003\004' > corpus/ipc/answer

mkdir -p corpus/resume corpus/token corpus/bearer
for seed in corpus/path/*.{mp4,webm,mkv,ts}; do
    { printf '\005'; tail -c +2 "$seed"; } > "corpus/resume/$(basename "$seed")"
done
printf '\000AQ' > corpus/token/short
printf '\000 Bearer a.b.c\n!segmill.v1, bearer.a.b.c' > corpus/bearer/two
printf '\001{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}' \
    > corpus/bearer/jwks
