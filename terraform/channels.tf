# Who is told.

resource "google_monitoring_notification_channel" "email" {
  for_each = var.emails

  display_name = "${var.name}: ${each.key}"
  type         = "email"
  labels       = { email_address = each.key }
  depends_on   = [google_project_service.apis]
}

resource "google_monitoring_notification_channel" "slack" {
  count = var.slack_channel == null ? 0 : 1

  display_name = "${var.name}: ${var.slack_channel}"
  type         = "slack"
  labels       = { channel_name = var.slack_channel }

  sensitive_labels {
    auth_token_wo         = var.slack_token
    auth_token_wo_version = var.slack_token_version
  }

  depends_on = [google_project_service.apis]
}

# Where the rollback service hears of alerts.
resource "google_monitoring_notification_channel" "rollback" {
  display_name = "${var.name}: rollback service"
  type         = "pubsub"
  labels       = { topic = google_pubsub_topic.alerts.id }
  depends_on   = [google_project_service.apis]
}

resource "google_pubsub_topic" "alerts" {
  #checkov:skip=CKV_GCP_83:No secret is in an alert, and Google encrypts it with keys of its own

  name = "${var.name}-alerts"

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }

  depends_on = [google_project_service.apis]
}

resource "google_pubsub_topic_iam_member" "monitoring_publishes" {
  topic  = google_pubsub_topic.alerts.name
  role   = "roles/pubsub.publisher"
  member = local.monitoring_agent

  # The first channel makes this account.
  depends_on = [google_monitoring_notification_channel.rollback]
}

locals {
  mailboxes = [for channel in google_monitoring_notification_channel.email : channel.name]
  people    = concat(local.mailboxes, google_monitoring_notification_channel.slack[*].name)
}
