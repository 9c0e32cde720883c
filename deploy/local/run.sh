#!/usr/bin/env bash
# Shows the service that `make run` starts, in Prometheus (127.0.0.1:9091) and Grafana (127.0.0.1:3000): both in containers
# where there is docker, else those that are installed. Ends with Ctrl-C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

curl -sf -o /dev/null http://127.0.0.1:9090/health/live || echo "watch: nothing answers on 127.0.0.1:9090 yet: make run" >&2

if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
    echo "watch: http://127.0.0.1:3000"
    exec docker compose -f deploy/local/compose.yaml up
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
PATH=$PATH:$target/tools/usr/bin
data=$target/watch
mkdir -p "$data"
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT

prometheus --config.file=deploy/local/prometheus.yml --storage.tsdb.path="$data/prometheus" \
    --web.listen-address=127.0.0.1:9091 --log.level=warn &
echo "watch: http://127.0.0.1:9091/alerts (Prometheus as \`make setup\` unpacks it has no pages, and answers queries alone)"

if home=$(ls -d "${GRAFANA_HOME:-/usr/share/grafana}" 2>/dev/null) && command -v grafana >/dev/null; then
    GF_PATHS_DATA=$data/grafana GF_PATHS_LOGS=$data/grafana GF_LOG_LEVEL=warn \
        GF_SERVER_HTTP_ADDR=127.0.0.1 GF_AUTH_ANONYMOUS_ENABLED=true GF_AUTH_ANONYMOUS_ORG_ROLE=Admin \
        GF_PATHS_PROVISIONING=$PWD/deploy/local/grafana DASHBOARDS=$PWD/deploy/grafana \
        GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH=$PWD/deploy/grafana/segmill.json \
        grafana server --homepath "$home" &
    echo "watch: http://127.0.0.1:3000"
else
    echo "watch: there is neither docker nor Grafana here: the dashboard is deploy/grafana/segmill.json, to be imported"
fi
wait
