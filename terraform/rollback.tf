# Takes a bad revision back when no build watches it any more: rollback alerts come to it by Pub/Sub. It looks at the metrics
# itself; the message is only the reason to. Its image is Terraform's: a bad release can't break it.

locals {
  # Known before the service is: Cloud Run gives each service this URL too.
  rollback_url = "https://${var.name}-rollback-${local.number}.${var.region}.run.app"
}

resource "google_cloud_run_v2_service" "rollback" {
  count = local.deployed ? 1 : 0

  name                = "${var.name}-rollback"
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_INTERNAL_ONLY"
  custom_audiences    = [local.rollback_url]
  deletion_protection = var.deletion_protection

  template {
    service_account                  = google_service_account.rollout.email
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    timeout                          = "300s"
    max_instance_request_concurrency = 10

    # One decides at a time.
    scaling {
      max_instance_count = 1
    }

    containers {
      name  = "rollout"
      image = var.image
      args  = ["rollout", "serve"]

      ports {
        container_port = 8080
      }

      dynamic "env" {
        for_each = {
          SEGMILL_ROLLOUT_SERVICE  = local.service
          SEGMILL_ROLLOUT_AUDIENCE = local.rollback_url
          SEGMILL_ROLLOUT_ACCOUNT  = google_service_account.push.email
        }
        content {
          name  = env.key
          value = env.value
        }
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 30
        http_get {
          path = "/health/live"
          port = 8080
        }
      }

      liveness_probe {
        period_seconds    = 30
        timeout_seconds   = 5
        failure_threshold = 3
        http_get {
          path = "/health/live"
          port = 8080
        }
      }

      resources {
        limits = {
          cpu    = "1"
          memory = "512Mi"
        }
        cpu_idle          = true
        startup_cpu_boost = true
      }
    }
  }

  depends_on = [google_project_iam_member.roles, google_service_account_iam_member.acts_as_run]
}

resource "google_cloud_run_v2_service_iam_member" "push_invokes" {
  count = local.deployed ? 1 : 0

  name     = google_cloud_run_v2_service.rollback[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = local.push
}

# Pub/Sub signs as the push account.
resource "google_service_account_iam_member" "pubsub_signs" {
  service_account_id = google_service_account.push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub_agent
}

resource "google_pubsub_subscription" "rollback" {
  count = local.deployed ? 1 : 0

  name                       = "${var.name}-rollback"
  topic                      = google_pubsub_topic.alerts.id
  ack_deadline_seconds       = 300
  message_retention_duration = "86400s"

  push_config {
    push_endpoint = google_cloud_run_v2_service.rollback[0].uri

    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = local.rollback_url
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "120s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.undelivered.id
    max_delivery_attempts = 20
  }

  # Never, however long all is well.
  expiration_policy {
    ttl = ""
  }

  depends_on = [google_service_account_iam_member.pubsub_signs]
}

resource "google_pubsub_topic" "undelivered" {
  #checkov:skip=CKV_GCP_83:No secret is in an alert, and Google encrypts it with keys of its own

  name = "${var.name}-alerts-undelivered"

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }

  depends_on = [google_project_service.apis]
}

resource "google_pubsub_subscription" "undelivered" {
  name                       = "${var.name}-alerts-undelivered"
  topic                      = google_pubsub_topic.undelivered.id
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_topic_iam_member" "pubsub_buries" {
  topic  = google_pubsub_topic.undelivered.name
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "pubsub_buries" {
  count = local.deployed ? 1 : 0

  subscription = google_pubsub_subscription.rollback[0].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}
