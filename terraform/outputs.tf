output "url" {
  description = "The service."
  value       = one(google_cloud_run_v2_service.segmill[*].uri)
}

output "service" {
  description = "For segmill rollout --service."
  value       = local.service
}

output "images" {
  description = "Where images are pushed to."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "accounts" {
  description = "The accounts, by what they do."
  value = {
    run     = google_service_account.run.email
    rollout = google_service_account.rollout.email
    build   = google_service_account.build.email
    push    = google_service_account.push.email
  }
}

output "secrets" {
  description = "Secrets that want a version before there is a service."
  value       = { for key, secret in google_secret_manager_secret.secrets : key => secret.secret_id if key != "monitoring" }
}

output "sources" {
  description = "For gcloud builds submit --gcs-source-staging-dir."
  value       = "gs://${google_storage_bucket.sources.name}/sources"
}

output "sizing" {
  description = "What the sizes add up to; dollars at var.prices."
  value = {
    sessions_per_instance = local.sessions_per_instance
    sessions_at_most      = local.sessions_per_instance * var.max_instances
    instances_for_peak    = var.peak_sessions == null ? null : ceil(var.peak_sessions / local.sessions_per_instance)

    instance_per_hour   = local.instance_hour
    idle_per_month      = local.instance_hour * var.min_instances * 730
    most_per_hour       = local.instance_hour * var.max_instances
    session_hour_full   = local.instance_hour / local.sessions_per_instance
    session_hour_scaled = local.instance_hour / (local.sessions_per_instance * local.full_share)
  }
}
