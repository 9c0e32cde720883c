#!/usr/bin/env bash
# Prints the path of a k6 that knows k6/websockets: the one at hand, else one that Go builds into target/tools (minutes, once).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=v1.8.1
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}/tools/bin")

# k6/websockets came out of k6/experimental with 1.0.
is_new_enough() { [[ $("$1" version 2>/dev/null) =~ k6[^0-9]*v?([0-9]+)\. ]] && ((BASH_REMATCH[1] >= 1)); }

for k6 in "$tools/k6" "$(command -v k6 || true)"; do
    if [[ -x $k6 ]] && is_new_enough "$k6"; then
        echo "$k6"
        exit
    fi
done

if ! command -v go >/dev/null; then
    echo "k6: there is neither k6 (1.0 or newer) here nor Go (1.25 or newer) to build it with" >&2
    exit 1
fi
echo "k6: building k6 $version into $tools" >&2
if ! GOBIN=$tools nice -n 10 go install "go.k6.io/k6@$version" >&2; then
    echo "k6: $(go version) can't build k6 $version, see above" >&2
    exit 1
fi
echo "$tools/k6"
