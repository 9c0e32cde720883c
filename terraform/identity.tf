# Who does what. Nobody has a role of the whole project that writes anything but its own logs and metrics.

resource "google_service_account" "run" {
  account_id   = "${var.name}-run"
  display_name = "${var.name}: the service"
  depends_on   = [google_project_service.apis]
}

resource "google_service_account" "rollout" {
  account_id   = "${var.name}-rollout"
  display_name = "${var.name}: moves traffic"
  depends_on   = [google_project_service.apis]
}

resource "google_service_account" "build" {
  account_id   = "${var.name}-build"
  display_name = "${var.name}: builds and deploys"
  depends_on   = [google_project_service.apis]
}

resource "google_service_account" "push" {
  account_id   = "${var.name}-push"
  display_name = "${var.name}: hands alerts to the rollback service"
  depends_on   = [google_project_service.apis]
}

locals {
  run     = "serviceAccount:${google_service_account.run.email}"
  rollout = "serviceAccount:${google_service_account.rollout.email}"
  build   = "serviceAccount:${google_service_account.build.email}"
  push    = "serviceAccount:${google_service_account.push.email}"

  # Google's own accounts.
  monitoring_agent = "serviceAccount:service-${local.number}@gcp-sa-monitoring-notification.iam.gserviceaccount.com"
  pubsub_agent     = "serviceAccount:service-${local.number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  invokers = var.public ? { everyone = "allUsers" } : merge(
    { for member in var.invokers : member => member },
    { build = local.build, uptime = local.monitoring_agent },
  )

  project_roles = {
    "run writes metrics" = { member = local.run, role = "roles/monitoring.metricWriter" }

    # Revisions and operations are read by project, not by service.
    "rollout reads revisions" = { member = local.rollout, role = "roles/run.viewer" }
    "rollout reads metrics"   = { member = local.rollout, role = "roles/monitoring.viewer" }
    "rollout writes logs"     = { member = local.rollout, role = "roles/logging.logWriter" }

    "build reads revisions" = { member = local.build, role = "roles/run.viewer" }
    "build reads metrics"   = { member = local.build, role = "roles/monitoring.viewer" }
    "build writes logs"     = { member = local.build, role = "roles/logging.logWriter" }
  }
}

resource "google_project_iam_member" "roles" {
  for_each = local.project_roles

  project = var.project
  role    = each.value.role
  member  = each.value.member
}

# To change a service is to say as whom it runs.
resource "google_service_account_iam_member" "acts_as_run" {
  for_each = { rollout = local.rollout, build = local.build }

  service_account_id = google_service_account.run.name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value
}

# All that is needed to move traffic, and of this service alone.
resource "google_project_iam_custom_role" "traffic" {
  role_id     = "${replace(var.name, "-", "_")}_traffic"
  title       = "${var.name}: move traffic"
  permissions = ["run.services.get", "run.services.update"]
  depends_on  = [google_project_service.apis]
}

resource "google_cloud_run_v2_service_iam_member" "moves_traffic" {
  count = local.deployed ? 1 : 0

  name     = google_cloud_run_v2_service.segmill[0].name
  location = var.region
  role     = google_project_iam_custom_role.traffic.name
  member   = local.rollout
}

resource "google_cloud_run_v2_service_iam_member" "deploys" {
  count = local.deployed ? 1 : 0

  name     = google_cloud_run_v2_service.segmill[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = local.build
}

# An instance asks whether its revision was taken back.
resource "google_cloud_run_v2_service_iam_member" "reads_itself" {
  count = local.deployed ? 1 : 0

  name     = google_cloud_run_v2_service.segmill[0].name
  location = var.region
  role     = "roles/run.viewer"
  member   = local.run
}

# Who calls the service. The build's gate and the uptime check come from outside as clients do.
resource "google_cloud_run_v2_service_iam_member" "invokers" {
  for_each = local.deployed ? local.invokers : {}

  name     = google_cloud_run_v2_service.segmill[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value

  # The first channel makes monitoring's agent.
  depends_on = [google_monitoring_notification_channel.rollback]
}
