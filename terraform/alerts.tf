# A policy for each rule of deploy/alerts/rules.yaml, with its part of docs/operations.md; nothing of them is said again here.

locals {
  rules = merge([for group in yamldecode(file("${path.module}/../deploy/alerts/rules.yaml")).groups : {
    for rule in group.rules : rule.alert => {
      group    = group.name
      interval = group.interval
      lasting  = rule["for"]
      expr     = rule.expr
      labels   = rule.labels
      summary  = rule.annotations.summary
      runbook  = rule.annotations.runbook
    }
  }]...)

  # "5m" in seconds.
  unit_seconds = { s = 1, m = 60, h = 3600 }

  rule_seconds = { for name, rule in local.rules : name => {
    for what in ["lasting", "interval"] :
    what => tonumber(regex("^[0-9]+", rule[what])) * local.unit_seconds[regex("[smh]$", rule[what])]
  } }

  # Sections of the runbook by their heading, up to the next one; links are of no use in an e-mail.
  sections = regexall("(?m)^### (Segmill[A-Za-z]+)\n((?:\n|[^#\n][^\n]*\n)*)", file("${path.module}/../docs/operations.md"))
  runbook = { for section in local.sections :
    section[0] => trimspace(replace(section[1], "/\\[([^\\]]*)\\]\\([^)]*\\)/", "$1"))
  }

  severities = { critical = "CRITICAL", warning = "WARNING" }
}

resource "google_monitoring_alert_policy" "rules" {
  for_each = local.rules

  display_name = "${each.value.group}/${each.key}"
  combiner     = "OR"
  severity     = local.severities[each.value.labels.severity]
  user_labels  = each.value.labels

  conditions {
    display_name = each.value.summary

    condition_prometheus_query_language {
      query               = each.value.expr
      duration            = "${local.rule_seconds[each.key].lasting}s"
      evaluation_interval = "${local.rule_seconds[each.key].interval}s"
      rule_group          = each.value.group
      alert_rule          = each.key
      labels              = each.value.labels

      # The first session makes the metrics.
      disable_metric_validation = true
    }
  }

  documentation {
    subject   = "${each.value.summary} ($${metric.label.revision_name})"
    mime_type = "text/markdown"
    content   = local.runbook[each.key]

    dynamic "links" {
      for_each = var.runbook_url == null ? [] : [var.runbook_url]
      content {
        display_name = "Runbook"
        url          = "${links.value}#${split("#", each.value.runbook)[1]}"
      }
    }
  }

  notification_channels = concat(
    local.people,
    each.value.labels.action == "rollback" ? [google_monitoring_notification_channel.rollback.name] : [],
  )

  alert_strategy {
    auto_close = "3600s"

    # What could not be taken back at first, for the stable revision was as bad, is asked for again.
    dynamic "notification_channel_strategy" {
      for_each = each.value.labels.action == "rollback" ? [google_monitoring_notification_channel.rollback.name] : []
      content {
        notification_channel_names = [notification_channel_strategy.value]
        renotify_interval          = "1800s"
      }
    }
  }
}

# The rollback service did not take an alert, again and again.
resource "google_monitoring_alert_policy" "undelivered" {
  count = local.deployed ? 1 : 0

  display_name = "${var.name}: alerts that the rollback service does not take"
  combiner     = "OR"
  severity     = "CRITICAL"
  user_labels  = { severity = "critical", action = "warn" }

  conditions {
    display_name = "An alert went to ${google_pubsub_topic.undelivered.name}"

    condition_threshold {
      filter          = "resource.type = \"pubsub_subscription\" AND resource.label.subscription_id = \"${google_pubsub_subscription.rollback[0].name}\" AND metric.type = \"pubsub.googleapis.com/subscription/dead_letter_message_count\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_SUM"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Nothing takes a bad revision back by itself now. Look at the revisions, and take the bad one back by hand: `segmill rollout status`, `segmill rollout rollback`. Then look at the logs of ${var.name}-rollback; the alerts are kept in ${google_pubsub_subscription.undelivered.name} for a week."
  }

  notification_channels = local.people

  alert_strategy {
    auto_close = "3600s"
  }
}

# Asked from outside: an instance that is gone tells nothing.
resource "google_monitoring_uptime_check_config" "capabilities" {
  count = local.deployed ? 1 : 0

  display_name = "${var.name}: /v1/capabilities"
  period       = "60s"
  timeout      = "10s"

  http_check {
    path         = "/v1/capabilities"
    port         = 443
    use_ssl      = true
    validate_ssl = true

    # Cloud Run's own check, where there is one.
    dynamic "service_agent_authentication" {
      for_each = var.public ? [] : [true]
      content {
        type = "OIDC_TOKEN"
      }
    }

    # It has no client's token: where one is asked for, that is the service's answer.
    accepted_response_status_codes {
      status_value = var.auth == null ? 200 : 401
    }
  }

  content_matchers {
    content = var.auth == null ? "gstreamer" : "unauthorized"
  }

  monitored_resource {
    type = "uptime_url"
    labels = {
      project_id = var.project
      host       = trimprefix(google_cloud_run_v2_service.segmill[0].uri, "https://")
    }
  }
}

resource "google_monitoring_alert_policy" "down" {
  count = local.deployed ? 1 : 0

  display_name = "${var.name}: does not answer"
  combiner     = "OR"
  severity     = "CRITICAL"
  user_labels  = { severity = "critical", action = "warn" }

  conditions {
    display_name = "/v1/capabilities fails from more than one region"

    condition_threshold {
      filter          = "resource.type = \"uptime_url\" AND metric.type = \"monitoring.googleapis.com/uptime_check/check_passed\" AND metric.label.check_id = \"${google_monitoring_uptime_check_config.capabilities[0].uptime_check_id}\""
      comparison      = "COMPARISON_GT"
      threshold_value = 1
      duration        = "120s"

      aggregations {
        alignment_period     = "120s"
        per_series_aligner   = "ALIGN_NEXT_OLDER"
        cross_series_reducer = "REDUCE_COUNT_FALSE"
        group_by_fields      = ["resource.label.host"]
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Is it the service or the platform? Instances and their logs; *Sessions* and *Instances* of the dashboard; the platform's status page. After a release: `segmill rollout rollback`."
  }

  notification_channels = local.people

  alert_strategy {
    auto_close = "3600s"
  }
}
