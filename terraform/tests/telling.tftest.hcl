# Alerts, channels, dashboard, budget: what somebody is told.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_resource "google_cloud_run_v2_service" {
    defaults = { uri = "https://segmill-abcdefghij-ew.a.run.app" }
  }
  mock_resource "google_service_account" {
    defaults = { email = "someone@segmill-test.iam.gserviceaccount.com", name = "projects/segmill-test/serviceAccounts/someone@segmill-test.iam.gserviceaccount.com" }
  }
}

override_resource {
  target = google_monitoring_notification_channel.rollback
  values = { name = "projects/segmill-test/notificationChannels/rollback" }
}

variables {
  project = "segmill-test"
  emails  = ["oncall@example.com", "media@example.com"]

  # An ephemeral variable that is null at the plan has to be at the apply; terraform test does not see that it is.
  slack_token = ""
  image       = "europe-west1-docker.pkg.dev/segmill-test/segmill/segmill@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "a_policy_for_each_rule" {
  assert {
    condition = toset(keys(google_monitoring_alert_policy.rules)) == toset(flatten([
      for group in yamldecode(file("../deploy/alerts/rules.yaml")).groups : [for rule in group.rules : rule.alert]
    ]))
    error_message = "Rules and policies are not the same."
  }

  assert {
    condition = alltrue(flatten([for group in yamldecode(file("../deploy/alerts/rules.yaml")).groups : [for rule in group.rules : [
      for condition in google_monitoring_alert_policy.rules[rule.alert].conditions : [for query in condition.condition_prometheus_query_language : [
        query.query == rule.expr,
        query.alert_rule == rule.alert,
        query.rule_group == group.name,
        query.labels == tomap(rule.labels),
        query.evaluation_interval == "30s",
        query.disable_metric_validation,
      ]]
    ]]]))
    error_message = "A policy is not its rule."
  }

  assert {
    condition = { for name, policy in google_monitoring_alert_policy.rules : name => policy.conditions[0].condition_prometheus_query_language[0].duration if contains(["SegmillErrorRateHigh", "SegmillHealthFailing", "SegmillNothingMade", "SegmillMemoryHigh"], name) } == {
      SegmillErrorRateHigh = "300s"
      SegmillHealthFailing = "0s"
      SegmillNothingMade   = "120s"
      SegmillMemoryHigh    = "600s"
    }
    error_message = "5m is 300 s."
  }

  assert {
    condition     = alltrue([for name, policy in google_monitoring_alert_policy.rules : policy.severity == (startswith(policy.display_name, "segmill-rollback/") ? "CRITICAL" : "WARNING")])
    error_message = "What takes a release back is critical."
  }

  # A notification has room for 8,192 characters.
  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.rules : length(policy.documentation[0].content) > 100 && length(policy.documentation[0].content) < 8192 && !strcontains(policy.documentation[0].content, "](")])
    error_message = "A policy brings its part of the runbook, without links that lead nowhere."
  }
}

run "rollback_hears_what_it_is_for" {
  assert {
    condition = alltrue([for policy in google_monitoring_alert_policy.rules :
    contains(policy.notification_channels, "projects/segmill-test/notificationChannels/rollback") == (policy.user_labels.action == "rollback")])
    error_message = "Rollback alerts go to the rollback service, and warnings don't."
  }

  assert {
    condition = alltrue([for policy in google_monitoring_alert_policy.rules :
    join(",", policy.alert_strategy[0].notification_channel_strategy[*].renotify_interval) == (policy.user_labels.action == "rollback" ? "1800s" : "")])
    error_message = "The rollback service is told again while an alert lasts."
  }

  assert {
    condition     = google_monitoring_notification_channel.rollback.labels.topic == google_pubsub_topic.alerts.id
    error_message = "By way of the topic."
  }
}

run "people" {
  variables {
    slack_channel = "#segmill"
    slack_token   = "xoxb-not-a-token"
  }

  assert {
    condition = alltrue([for policy in concat(
      values(google_monitoring_alert_policy.rules),
      google_monitoring_alert_policy.down, google_monitoring_alert_policy.undelivered,
    ) : length([for channel in policy.notification_channels : channel if channel != "projects/segmill-test/notificationChannels/rollback"]) == 3])
    error_message = "Every alert goes to both addresses and to Slack."
  }

  assert {
    condition     = google_monitoring_notification_channel.slack[0].sensitive_labels[0].auth_token == null
    error_message = "Slack's token is not in the state."
  }
}

run "dashboard" {
  # Of Grafana's: as many panels, and every query with its variables filled in.
  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.segmill.dashboard_json).mosaicLayout.tiles) == length(jsondecode(file("../deploy/grafana/segmill.json")).panels)
    error_message = "A panel is missing."
  }

  assert {
    condition = alltrue(flatten([for tile in jsondecode(google_monitoring_dashboard.segmill.dashboard_json).mosaicLayout.tiles : [
      for set in try(tile.widget.xyChart.dataSets, []) : [
        !strcontains(set.timeSeriesQuery.prometheusQuery, "$"),
        strcontains(set.timeSeriesQuery.prometheusQuery, "service_name=~\"segmill\""),
        !strcontains(set.legendTemplate, "{{"),
      ]
    ]]))
    error_message = "A variable of Grafana's is left."
  }

  assert {
    condition     = sum([for tile in jsondecode(google_monitoring_dashboard.segmill.dashboard_json).mosaicLayout.tiles : length(try(tile.widget.xyChart.dataSets, []))]) == sum([for panel in jsondecode(file("../deploy/grafana/segmill.json")).panels : length(try(panel.targets, []))])
    error_message = "A query is missing."
  }

  assert {
    condition = one([for tile in jsondecode(google_monitoring_dashboard.segmill.dashboard_json).mosaicLayout.tiles :
    tile.widget.xyChart.thresholds[*].value if tile.widget.title == "Error rate"]) == [0.05, 0.1]
    error_message = "Lines are where Grafana's are."
  }

  assert {
    condition     = alltrue([for tile in jsondecode(google_monitoring_dashboard.segmill.dashboard_json).mosaicLayout.tiles : try(tile.xPos, 0) + tile.width <= 48])
    error_message = "A tile sticks out."
  }
}

run "budget" {
  variables {
    budget        = { billing_account = "012345-6789AB-CDEF01", amount = 2000 }
    slack_channel = "#segmill"
  }

  assert {
    condition = alltrue([
      google_billing_budget.project[0].budget_filter[0].projects == toset(["projects/123456789012"]),
      google_billing_budget.project[0].amount[0].specified_amount[0].units == "2000",
      [for rule in google_billing_budget.project[0].threshold_rules : rule.threshold_percent] == [0.5, 0.9, 1, 1],
      length(google_billing_budget.project[0].all_updates_rule[0].monitoring_notification_channels) == 2,
    ])
    error_message = "The budget is of this project, and tells the addresses; it can't tell Slack."
  }

  assert {
    condition     = contains(keys(google_project_service.apis), "billingbudgets.googleapis.com")
    error_message = "Its API is on."
  }
}

run "no_budget" {
  assert {
    condition     = length(google_billing_budget.project) == 0 && !contains(keys(google_project_service.apis), "billingbudgets.googleapis.com")
    error_message = "None that is not asked for."
  }
}

run "uptime" {
  assert {
    condition = alltrue([
      google_monitoring_uptime_check_config.capabilities[0].http_check[0].path == "/v1/capabilities",
      google_monitoring_uptime_check_config.capabilities[0].monitored_resource[0].labels.host == "segmill-abcdefghij-ew.a.run.app",
      one(google_monitoring_uptime_check_config.capabilities[0].http_check[0].accepted_response_status_codes).status_value == 200,
      google_monitoring_uptime_check_config.capabilities[0].http_check[0].service_agent_authentication[0].type == "OIDC_TOKEN",
      google_monitoring_uptime_check_config.capabilities[0].content_matchers[0].content == "gstreamer",
    ])
    error_message = "It asks what a client would, through Cloud Run's own check."
  }
}
