#!/usr/bin/env bash
# Runs loadtest/ by k6 against a service that it starts on this machine, or against the one at URL. PROFILE, USERS,
# DURATION, TARGET, TOKEN and CLIP are as loadtest/README.md has them; FLAGS are further ones for `segmill serve`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

script=loadtest
source scripts/local.sh
out=$(realpath -m "${OUT:-target/loadtest}")
prometheus=

stop_all() {
    [[ -z $prometheus ]] || { kill "$prometheus" && wait "$prometheus" || true; } 2>/dev/null
    prometheus=
    stop_server
}
trap 'stop_all || true' EXIT

# One that scrapes the service and evaluates the alerts, where there is one; sets `prometheus` and `prometheus_address`.
start_prometheus() {
    local program tools
    tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools/usr/bin
    program=$(PATH=$PATH:$tools command -v prometheus) || return 0
    local folder=$out/prometheus
    rm -rf "$folder"
    mkdir -p "$folder"
    sed "s/127\.0\.0\.1:9090/127.0.0.1:$ops_port/; s|\.\./alerts|$PWD/deploy/alerts|" deploy/local/prometheus.yml >"$folder/prometheus.yml"
    "$program" --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/data" --web.listen-address=127.0.0.1:0 \
        2>"$folder/log" &
    prometheus=$!
    for ((i = 0; i < 150; i++)); do
        prometheus_address=$(grep 'Listening on' "$folder/log" | grep -o '127.0.0.1:[0-9]*' | head -n 1) && break
        sleep 0.1
    done
}

# What the alerts came to. Fails where Prometheus could not evaluate one, or one says that the release is bad: a load test
# must not take a release back.
ask_prometheus() {
    [[ -n $prometheus ]] || { echo "$script: there is no Prometheus here (make setup); alerts are not looked at"; return 0; }
    curl -fsS "http://$prometheus_address/api/v1/rules" | python3 -c '
import json, sys
rules = [rule for group in json.load(sys.stdin)["data"]["groups"] for rule in group["rules"]]
alerts = [rule for rule in rules if rule["type"] == "alerting"]
# Each 30 s; until then their health is unknown.
done = [rule["name"] for rule in alerts if rule["health"] == "ok"]
ill = [rule["name"] for rule in rules if rule["health"] == "err"]
active = [(alert["state"], rule["name"], rule["labels"].get("action")) for rule in alerts for alert in rule["alerts"]]
print(f"loadtest: Prometheus has evaluated {len(done)} of {len(alerts)} alerts; " + (", ".join(f"{state}: {name}" for state, name, _ in active) or "none is active"))
if ill or not alerts or any(action == "rollback" for _, _, action in active):
    sys.exit(f"loadtest: not evaluated: {ill}; active: {active}")
'
}

# Processor time of these processes.
seconds_of() {
    local stats=("${@/#//proc/}")
    sed 's/.*) //' "${stats[@]/%//stat}" | awk -v hz="$(getconf CLK_TCK)" '{ sum += $12 + $13 } END { print sum / hz }'
}

mkdir -p "$out"
k6=$(scripts/k6.sh)
CLIP=${CLIP:-$(scripts/clip.sh)}
if [[ -z ${URL:-} ]]; then
    cargo build --release --locked
    # shellcheck disable=SC2086
    start_server --max-sessions 1000 ${FLAGS:-}
    start_prometheus
    URL=ws://127.0.0.1:$port/v1/stream
fi
export URL OUT=$out CLIP

uptime
code=0
TIMEFORMAT="$script: k6 took %U s of processor time for itself and %S s in the kernel"
time "$k6" run --no-usage-report --address '' --quiet loadtest/stream.js || code=$?
uptime
if [[ -n $server ]]; then
    most=$(awk '/^VmHWM:/ { printf "%d", $2 / 1024 }' "/proc/$server/status")
    mapfile -t workers < <(pgrep -P "$server")
    echo "$script: the service took $(seconds_of "$server") s and at most $most MB, its workers $(seconds_of "${workers[@]}") s"
    ask_prometheus || code=$((code ? code : 1))
    stop_all || fail "the service did not end well on SIGTERM"
fi
echo "$script: the reports are in $out: index.html, junit.xml, summary.json"
exit "$code"
