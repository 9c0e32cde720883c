# The service. Terraform says what an instance is; which image runs, and who gets it, is the release's.

locals {
  scratch = "/scratch"

  # Each is one that `segmill serve --help` tells of.
  environment = merge({
    SEGMILL_OPS_LISTEN    = "0.0.0.0:${local.ops_port}"
    SEGMILL_WORKERS       = tostring(var.cpu)
    SEGMILL_MAX_SESSIONS  = tostring(var.concurrency)
    SEGMILL_SESSION_LIMIT = "${var.session_limit_s}s"
    SEGMILL_RUN_SERVICE   = local.service
    SEGMILL_SCRATCH_DIR   = local.scratch
    SEGMILL_SCRATCH_BYTES = "${var.scratch_mib}MiB"
    SEGMILL_RESUME_KEY    = "@${local.mounts.resume-key.directory}/${local.mounts.resume-key.file}"
    }, var.auth == null ? {} : {
    SEGMILL_AUTH_AUDIENCE = var.auth.audience
    SEGMILL_AUTH_ISSUER   = var.auth.issuer
    }, local.auth_keys ? {
    SEGMILL_AUTH_KEYS = "@${local.mounts.auth-keys.directory}/${local.mounts.auth-keys.file}"
    } : {}, try(var.auth.jwks_url, null) == null ? {} : {
    SEGMILL_AUTH_JWKS_URL = var.auth.jwks_url
    }, length(var.allow_origins) == 0 ? {} : {
    SEGMILL_ALLOW_ORIGIN = join(",", var.allow_origins)
  })

  auth_keys = try(var.auth.keys_version, null) != null

  # Keys are files: an environment shows up in more places.
  mounts = merge({
    resume-key = { directory = "/secrets/resume-key", file = "keys", version = var.resume_key_version }
    }, local.auth_keys ? {
    auth-keys = { directory = "/secrets/auth-keys", file = "keys", version = var.auth.keys_version }
  } : {})
}

resource "google_cloud_run_v2_service" "segmill" {
  count = local.deployed ? 1 : 0

  name                = var.name
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_ALL"
  launch_stage        = var.readiness_probe ? "BETA" : "GA"
  deletion_protection = var.deletion_protection

  # Over all revisions with traffic: a canary of a tenth isn't two more instances.
  scaling {
    min_instance_count = var.min_instances
    max_instance_count = var.max_instances
  }

  template {
    service_account                  = google_service_account.run.email
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    timeout                          = "${var.request_timeout_s}s"
    max_instance_request_concurrency = var.concurrency

    # It would win over the traffic split.
    session_affinity = false

    scaling {
      max_instance_count = var.max_instances
    }

    containers {
      name  = "segmill"
      image = var.image

      ports {
        name           = "http1"
        container_port = 8080
      }

      dynamic "env" {
        for_each = local.environment
        content {
          name  = env.key
          value = env.value
        }
      }

      resources {
        limits = {
          cpu    = tostring(var.cpu)
          memory = "${var.memory_gib}Gi"
        }
        # Instance-based billing: workers go on between two requests, and so do the sidecar and the drain.
        cpu_idle          = false
        startup_cpu_boost = true
      }

      # Ready once a worker is and tokens can be verified; 60 s.
      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 30
        http_get {
          path = "/health/ready"
          port = local.ops_port
        }
      }

      # Not readiness: an instance that is full is well.
      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 5
        failure_threshold = 3
        http_get {
          path = "/health/live"
          port = local.ops_port
        }
      }

      dynamic "readiness_probe" {
        for_each = var.readiness_probe ? [true] : []
        content {
          period_seconds    = 5
          timeout_seconds   = 2
          failure_threshold = 1
          success_threshold = 1
          http_get {
            path = "/health/ready"
            port = local.ops_port
          }
        }
      }

      volume_mounts {
        name       = "scratch"
        mount_path = local.scratch
      }

      dynamic "volume_mounts" {
        for_each = local.mounts
        content {
          name       = volume_mounts.key
          mount_path = volume_mounts.value.directory
        }
      }
    }

    containers {
      name       = "collector"
      image      = var.sidecar.image
      depends_on = ["segmill"]

      resources {
        limits = {
          cpu    = tostring(var.sidecar.cpu)
          memory = "${var.sidecar.memory_mib}Mi"
        }
        cpu_idle          = false
        startup_cpu_boost = true
      }

      volume_mounts {
        name       = "monitoring"
        mount_path = "/etc/rungmp"
      }
    }

    volumes {
      name = "scratch"
      empty_dir {
        medium     = "MEMORY"
        size_limit = "${var.scratch_mib}Mi"
      }
    }

    dynamic "volumes" {
      for_each = local.mounts
      content {
        name = volumes.key
        secret {
          secret = google_secret_manager_secret.secrets[volumes.key].secret_id
          items {
            path    = volumes.value.file
            version = volumes.value.version
          }
        }
      }
    }

    volumes {
      name = "monitoring"
      secret {
        secret = google_secret_manager_secret.secrets["monitoring"].secret_id
        items {
          path    = "config.yaml"
          version = google_secret_manager_secret_version.monitoring.version
        }
      }
    }
  }

  depends_on = [
    google_project_iam_member.roles,
    google_secret_manager_secret_iam_member.readers,
  ]

  lifecycle {
    # A release's: its image, its revision's name, the traffic split, and what gcloud notes of itself. What is changed here
    # becomes a revision without traffic, as a release does, and gets traffic as one does: README.md.
    ignore_changes = [
      client,
      client_version,
      template[0].annotations,
      template[0].containers[0].image,
      template[0].labels,
      template[0].revision,
      traffic,
    ]
  }
}
