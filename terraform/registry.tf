# Images, the cache that builds take layers from, and the sources that builds are sent.

resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:No secret is in an image, and Google encrypts it with keys of its own

  repository_id = var.name
  location      = var.region
  format        = "DOCKER"
  description   = "Images of ${var.name}, named by digest."

  docker_config {
    immutable_tags = true
  }

  cleanup_policies {
    id     = "keep"
    action = "KEEP"
    most_recent_versions {
      keep_count = var.images_kept
    }
  }

  cleanup_policies {
    id     = "old"
    action = "DELETE"
    condition {
      older_than = "${90 * 86400}s"
    }
  }

  depends_on = [google_project_service.apis]
}

# Its one tag moves with each build.
resource "google_artifact_registry_repository" "cache" {
  #checkov:skip=CKV_GCP_84:No secret is in a layer, and Google encrypts it with keys of its own

  repository_id = "${var.name}-cache"
  location      = var.region
  format        = "DOCKER"
  description   = "Layers that builds of ${var.name} start from."

  cleanup_policies {
    id     = "old"
    action = "DELETE"
    condition {
      older_than = "${14 * 86400}s"
    }
  }

  depends_on = [google_project_service.apis]
}

resource "google_artifact_registry_repository_iam_member" "build_writes" {
  for_each = {
    images = google_artifact_registry_repository.images.name
    cache  = google_artifact_registry_repository.cache.name
  }

  repository = each.value
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = local.build
}

# Roll-outs by hand run in the image.
resource "google_artifact_registry_repository_iam_member" "rollout_reads" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = local.rollout
}

resource "google_storage_bucket" "sources" {
  #checkov:skip=CKV_GCP_62:Cloud Audit Logs say who reads it
  #checkov:skip=CKV_GCP_78:Each upload has a name of its own, and goes after a month

  name     = "${var.project}-${var.name}-sources"
  location = var.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  lifecycle_rule {
    condition {
      age = 30
    }
    action {
      type = "Delete"
    }
  }

  depends_on = [google_project_service.apis]
}

resource "google_storage_bucket_iam_member" "build_reads" {
  bucket = google_storage_bucket.sources.name
  role   = "roles/storage.objectViewer"
  member = local.build
}
