# What several files need: the project, its APIs, names, and the arithmetic of sizes.

data "google_project" "this" {
  project_id = var.project
}

locals {
  # The service's ops port: health and metrics. Cloud Run lets nothing from outside through to it.
  ops_port = 9090

  deployed = var.image != null
  number   = data.google_project.this.number

  # As `segmill rollout --service` has it.
  service = "projects/${var.project}/locations/${var.region}/services/${var.name}"

  sessions_per_instance = min(var.concurrency, floor(var.sessions_per_vcpu * var.cpu))
  instance_vcpu         = var.cpu + var.sidecar.cpu
  instance_gib          = var.memory_gib + var.sidecar.memory_mib / 1024
  instance_hour         = 3600 * (local.instance_vcpu * var.prices.vcpu_s + local.instance_gib * var.prices.gib_s)

  # Cloud Run adds instances when those there are have six tenths of their requests.
  full_share = 0.6
}

resource "google_project_service" "apis" {
  for_each = toset(concat([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
  ], var.budget == null ? [] : ["billingbudgets.googleapis.com"]))

  service            = each.key
  disable_on_destroy = false
}

check "concurrency" {
  assert {
    condition     = var.concurrency <= floor(var.sessions_per_vcpu * var.cpu)
    error_message = "An instance serves ${floor(var.sessions_per_vcpu * var.cpu)} sessions in time, and Cloud Run sends it ${var.concurrency}: it will turn the rest away."
  }
}

check "peak" {
  assert {
    condition     = var.peak_sessions == null || var.max_instances * local.sessions_per_instance >= coalesce(var.peak_sessions, 0)
    error_message = "${var.max_instances} instances serve ${var.max_instances * local.sessions_per_instance} sessions, less than peak_sessions."
  }
}
