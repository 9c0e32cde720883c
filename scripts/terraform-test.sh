#!/usr/bin/env bash
# terraform/: its form, whether it is valid, and its tests, against the schema of the real provider; nothing is asked of Google.
# The provider is built from the Go module proxy (a quarter of an hour, once), as is OpenTofu where there is neither.
#
#   scripts/terraform-test.sh [ARGUMENTS OF terraform test]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# 8.0.0, by the commit: Go has no name for a release past v1 of a module whose path doesn't say so.
provider=github.com/hashicorp/terraform-provider-google@v1.20.1-0.20260828184646-f3721fb45fa3
tofu=github.com/opentofu/opentofu@v1.12.6
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}/tools/bin")
mkdir -p "$tools"

need_go() {
    command -v go >/dev/null && return
    echo "terraform-test: there is neither $1 here nor Go to build it with" >&2
    exit 1
}

# 1.11 or newer.
is_new_enough() {
    [[ $("$1" version 2>/dev/null) =~ (Terraform|OpenTofu)\ v1\.([0-9]+)\. ]] && ((BASH_REMATCH[2] >= 11))
}

terraform=
for candidate in "$(command -v terraform || true)" "$(command -v tofu || true)" "$tools/tofu"; do
    if [[ -x $candidate ]] && is_new_enough "$candidate"; then
        terraform=$candidate
        break
    fi
done
if [[ -z $terraform ]]; then
    need_go "Terraform 1.11"
    echo "terraform-test: building ${tofu##*/} into $tools"
    # It replaces a module by another, which `go install` of a version won't do.
    sources=$(mktemp -d)
    cp -r "$(go mod download -json "$tofu" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')/." "$sources"
    chmod -R u+w "$sources"
    (cd "$sources" && nice -n 10 go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$tools/tofu" ./cmd/tofu)
    rm -rf "$sources"
    terraform=$tools/tofu
fi

if [[ ! -x $tools/terraform-provider-google ]]; then
    need_go "the provider"
    echo "terraform-test: building ${provider%@*} into $tools"
    GOBIN=$tools GOGC=60 nice -n 10 go install -p 2 -trimpath -ldflags='-s -w' "$provider"
fi

export TF_DATA_DIR=$tools/../terraform TF_CLI_CONFIG_FILE=$tools/../terraform.rc CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1
cat >"$TF_CLI_CONFIG_FILE" <<RC
provider_installation {
  dev_overrides {
    "hashicorp/google" = "$tools"
  }
}
RC

run() { "$terraform" -chdir=terraform "$@"; }
run fmt -check -recursive -diff
run validate
run test "$@"

# Of the dashboard the provider only knows that it is JSON.
checker=$tools/../dashboard
[[ -x $checker/bin/python ]] || { python3 -m venv "$checker" && "$checker/bin/pip" -q install google-cloud-monitoring-dashboards==3.2.0; }
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r terraform deploy docs "$copy"
# An expression alone wants no backend.
sed -i '/backend "gcs"/d' "$copy/terraform/versions.tf"
"$terraform" -chdir="$copy/terraform" console -var-file=example.tfvars <<<'jsonencode(local.dashboard)' >"$copy/dashboard.json"
"$checker/bin/python" - "$copy/dashboard.json" <<'PYTHON'
import json
import sys

from google.cloud.monitoring_dashboard_v1 import Dashboard

text = json.loads(open(sys.argv[1]).read())
tiles = Dashboard.from_json(text, ignore_unknown_fields=False).mosaic_layout.tiles
print(f"dashboard: {len(tiles)} tiles, as the API of Cloud Monitoring has them")
PYTHON
