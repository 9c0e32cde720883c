#!/usr/bin/env bash
# Installs what building and testing need, where it is missing. Does nothing when all is there.
set -euo pipefail

packages=(
    build-essential pkg-config curl ca-certificates python3
    libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
    gstreamer1.0-libav gstreamer1.0-tools ffmpeg
)

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    missing=()
    for package in "${packages[@]}"; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [[ $status == installed ]] || missing+=("$package")
    done
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    if ((${#missing[@]})); then
        echo "setup: installing ${missing[*]}"
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
    # Unpacked, not installed: the package starts a Prometheus on this machine, on the very port of `make run`.
    tools=$(realpath -m "${CARGO_TARGET_DIR:-target}/tools")
    if ! { command -v prometheus && command -v promtool; } >/dev/null && [[ ! -x $tools/usr/bin/promtool ]]; then
        echo "setup: unpacking Prometheus into $tools"
        fetched=$(mktemp -d)
        trap 'rm -rf "$fetched"' EXIT
        chmod 755 "$fetched"
        get() { (cd "$fetched" && apt-get download -qq prometheus 2>/dev/null); }
        get || { "${as_root[@]}" apt-get update -qq && get; }
        mkdir -p "$tools"
        dpkg-deb -x "$fetched"/prometheus_*.deb "$tools"
    fi
else
    missing=()
    for tool in cc pkg-config curl python3 ffmpeg ffprobe gst-inspect-1.0 promtool prometheus; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    if command -v pkg-config >/dev/null; then
        for library in gstreamer-1.0 gstreamer-app-1.0 gstreamer-video-1.0 gstreamer-audio-1.0; do
            pkg-config --atleast-version 1.22 "$library" || missing+=("$library >= 1.22")
        done
    fi
    if ((${#missing[@]})); then
        echo "setup: this system has no apt-get; please install: ${missing[*]}" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "setup: cargo is missing; rustup.rs installs it" >&2
    exit 1
fi
