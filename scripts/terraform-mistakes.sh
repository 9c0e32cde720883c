#!/usr/bin/env bash
# Whether the tests of terraform/ find mistakes: each is made in a copy, and `terraform test` has to fail. Some minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# FILE | the tests that find it | a sed expression, which has to change something.
mistakes=(
    'run.tf|service|s/cpu_idle          = false/cpu_idle          = true/'
    'run.tf|service|s/session_affinity = false/session_affinity = true/'
    'run.tf|service|0,/port = local.ops_port/s//port = 8080/'
    'run.tf|service|s#path = "/health/live"#path = "/health/ready"#'
    'run.tf|service|s/SEGMILL_SESSION_LIMIT = .*/SEGMILL_SESSION_LIMIT = "0"/'
    'run.tf|service|s/EXECUTION_ENVIRONMENT_GEN2/EXECUTION_ENVIRONMENT_GEN1/'
    'run.tf|service|s/size_limit = .*/size_limit = "64Mi"/'
    'run.tf|service|s/depends_on = \["segmill"\]/depends_on = []/'
    'run.tf|access|s/google_service_account.run.email/google_service_account.build.email/'
    'secrets.tf|service|s/interval = "30s"/interval = "300s"/'
    'secrets.tf|access|s/auth-keys  = { run = local.run }/auth-keys  = { run = local.run, build = local.build }/'
    'identity.tf|access|s/build = local.build, uptime/everyone = "allUsers", uptime/'
    'identity.tf|access|s#roles/monitoring.metricWriter#roles/editor#'
    'identity.tf|access|s/"run.services.update"/"run.services.update", "run.services.setIamPolicy"/'
    'rollback.tf|access|s/member   = local.push/member   = "allUsers"/'
    'rollback.tf|access|s/INTERNAL_ONLY/ALL/'
    'rollback.tf|access|s/max_instance_count = 1$/max_instance_count = 2/'
    'rollback.tf|access|s/ttl = ""/ttl = "86400s"/'
    'channels.tf|access|s/member = local.monitoring_agent/member = local.pubsub_agent/'
    'channels.tf|telling|s/auth_token_wo         = var.slack_token/auth_token            = "a"/'
    'alerts.tf|telling|s/m = 60,/m = 1,/'
    'alerts.tf|telling|s/each.value.labels.action == "rollback" ? \[google_monitoring_notification_channel.rollback.name\] : \[\],/[],/'
    'alerts.tf|telling|s/query               = each.value.expr/query               = "vector(1)"/'
    'alerts.tf|telling|s/content   = local.runbook\[each.key\]/content   = each.value.summary/'
    'dashboard.tf|telling|s/"\$revision" /"$revisions"/'
    'dashboard.tf|telling|s/value = step.value }/value = 1 }/'
    'budget.tf|telling|s/local.mailboxes/local.people/g'
    'main.tf|service|s/floor(var.sessions_per_vcpu \* var.cpu))$/1000)/'
    'variables.tf|refused|s/var.session_limit_s <= var.request_timeout_s - 60/true/'
    'variables.tf|refused|s/!var.public || var.auth != null/true/'
    'variables.tf|refused|s/can(regex("^\[^@ \]+@sha256.*/true/'
)

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r scripts deploy docs "$copy"
missed=0
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
for mistake in "${mistakes[@]}"; do
    file=${mistake%%|*} rest=${mistake#*|}
    tests=${rest%%|*} expression=${rest#*|}
    rm -rf "$copy/terraform"
    cp -r terraform "$copy"
    sed -i "$expression" "$copy/terraform/$file"
    if cmp -s "terraform/$file" "$copy/terraform/$file"; then
        echo "no mistake: $file: $expression"
        missed=1
    elif "$copy/scripts/terraform-test.sh" -filter="tests/$tests.tftest.hcl" >"$copy/log" 2>&1; then
        echo "missed: $file: $expression"
        missed=1
    elif ! by=$(grep -oE -m1 'run "[a-z_]+"\.\.\. fail|Error: .*' <(sed 's/\x1b\[[0-9;]*m//g' "$copy/log")); then
        echo "broken: $file: $expression"
        tail -5 "$copy/log"
        missed=1
    else
        echo "found: $file: $expression: ${by%... fail}"
    fi
done
((missed == 0)) && echo "terraform-mistakes: all ${#mistakes[@]} are found"
exit "$missed"
