#!/usr/bin/env bash
# Puts under ROOT what the image has beyond its base: the plugins of GStreamer that are used, the libraries that these and
# the binary need and the base lacks, and the licences of all of them.
#   collect.sh ROOT BINARY FFMPEG BASE
# FFMPEG: where ffmpeg.sh has put its libraries, which take the place of Debian's. BASE: a list of the base's files.
set -euo pipefail

root=$1 binary=$2 ffmpeg=$3 base=$4
plugins=(aom app audioconvert coreelements libav opus videoconvertscale videofilter vpx x264 x265)

libraries=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
target=$root$libraries
mkdir -p "$target/gstreamer-1.0" "$root/usr/share/doc"

files=("$binary")
for plugin in "${plugins[@]}"; do
    file=$libraries/gstreamer-1.0/libgst$plugin.so
    cp "$file" "$target/gstreamer-1.0/"
    files+=("$file")
done
export LD_LIBRARY_PATH=$ffmpeg/lib
if ldd "${files[@]}" | grep 'not found'; then
    exit 1
fi
ldd "${files[@]}" | awk '$2 == "=>" { print $3 }' | sort -u | while read -r library; do
    # One and the same file, whichever way it is named.
    name=$(basename "$library")
    grep -qF "/$name" "$base" && continue
    cp -L "$library" "$target/$name"
done

unset LD_LIBRARY_PATH
for file in "$target"/*.so* "$target"/gstreamer-1.0/*.so; do
    package=$(dpkg-query --search "${file#"$root"}" 2> /dev/null | head -1 | cut -d: -f1) || continue
    [ -z "$package" ] || install -D "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
done
