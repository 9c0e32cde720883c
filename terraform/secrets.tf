# Keys. Their versions are added by hand, so that none is in the state: README.md.

locals {
  # Each with those who read it.
  secrets = {
    resume-key = { run = local.run }
    auth-keys  = { run = local.run }
    gate-token = { build = local.build }
    monitoring = { run = local.run }
  }

  readers = merge([for secret, members in local.secrets : {
    for who, member in members : "${who} reads ${secret}" => { secret = secret, member = member }
  }]...)

  # What the sidecar scrapes. It adds the labels service_name and revision_name by itself.
  monitoring = {
    apiVersion = "monitoring.googleapis.com/v1beta"
    kind       = "RunMonitoring"
    metadata   = { name = var.name }
    spec = {
      endpoints = [{ port = local.ops_port, path = "/metrics", interval = "30s" }]
    }
  }
}

resource "google_secret_manager_secret" "secrets" {
  for_each = local.secrets

  secret_id = "${var.name}-${each.key}"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }

  depends_on = [google_project_service.apis]
}

resource "google_secret_manager_secret_iam_member" "readers" {
  for_each = local.readers

  secret_id = google_secret_manager_secret.secrets[each.value.secret].id
  role      = "roles/secretmanager.secretAccessor"
  member    = each.value.member
}

# No secret: Secret Manager is where the sidecar's configuration has to be.
resource "google_secret_manager_secret_version" "monitoring" {
  secret      = google_secret_manager_secret.secrets["monitoring"].id
  secret_data = yamlencode(local.monitoring)
}
