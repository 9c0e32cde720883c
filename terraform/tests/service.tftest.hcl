# What a service is made of, planned and applied against the provider's real schema; nothing is asked of Google.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_resource "google_cloud_run_v2_service" {
    defaults = { uri = "https://segmill-abcdefghij-ew.a.run.app" }
  }
  mock_resource "google_secret_manager_secret_version" {
    defaults = { version = "7" }
  }
  mock_resource "google_service_account" {
    defaults = { email = "someone@segmill-test.iam.gserviceaccount.com", name = "projects/segmill-test/serviceAccounts/someone@segmill-test.iam.gserviceaccount.com" }
  }
}

variables {
  project = "segmill-test"
  emails  = ["oncall@example.com"]

  # An ephemeral variable that is null at the plan has to be at the apply; terraform test does not see that it is.
  slack_token = ""
  image       = "europe-west1-docker.pkg.dev/segmill-test/segmill/segmill@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "instances" {
  assert {
    condition = alltrue([
      google_cloud_run_v2_service.segmill[0].template[0].containers[0].resources[0].limits["cpu"] == "4",
      google_cloud_run_v2_service.segmill[0].template[0].containers[0].resources[0].limits["memory"] == "4Gi",
      google_cloud_run_v2_service.segmill[0].template[0].max_instance_request_concurrency == 30,
      google_cloud_run_v2_service.segmill[0].scaling[0].min_instance_count == 2,
      google_cloud_run_v2_service.segmill[0].scaling[0].max_instance_count == 30,
      google_cloud_run_v2_service.segmill[0].template[0].scaling[0].max_instance_count == 30,
      google_cloud_run_v2_service.segmill[0].template[0].execution_environment == "EXECUTION_ENVIRONMENT_GEN2",
    ])
    error_message = "The size is not what is asked for."
  }

  # A revision's own would run beside the service's, for each revision with a tag.
  assert {
    condition     = coalesce(google_cloud_run_v2_service.segmill[0].template[0].scaling[0].min_instance_count, 0) == 0
    error_message = "The least instances are the service's, not each revision's."
  }

  assert {
    condition = alltrue([for container in google_cloud_run_v2_service.segmill[0].template[0].containers :
    container.resources[0].cpu_idle == false && container.resources[0].startup_cpu_boost])
    error_message = "Every container is billed by instance, and boosted at its start."
  }

  assert {
    condition     = google_cloud_run_v2_service.segmill[0].template[0].session_affinity == false
    error_message = "Session affinity wins over the traffic split."
  }

  assert {
    condition = alltrue([for probe in concat(
      google_cloud_run_v2_service.segmill[0].template[0].containers[0].startup_probe,
      google_cloud_run_v2_service.segmill[0].template[0].containers[0].liveness_probe,
    ) : probe.http_get[0].port == 9090 && probe.timeout_seconds <= probe.period_seconds])
    error_message = "Health is on the ops port."
  }

  assert {
    condition = (
      google_cloud_run_v2_service.segmill[0].template[0].containers[0].startup_probe[0].http_get[0].path == "/health/ready" &&
      google_cloud_run_v2_service.segmill[0].template[0].containers[0].liveness_probe[0].http_get[0].path == "/health/live"
    )
    error_message = "Traffic comes when the service is ready; a full instance is not restarted."
  }

  assert {
    condition     = google_cloud_run_v2_service.segmill[0].launch_stage == "GA" && length(google_cloud_run_v2_service.segmill[0].template[0].containers[0].readiness_probe) == 0
    error_message = "Preview features are asked for."
  }

  assert {
    condition     = google_cloud_run_v2_service.segmill[0].template[0].containers[0].ports[0].container_port == 8080 && google_cloud_run_v2_service.segmill[0].template[0].containers[0].ports[0].name == "http1"
    error_message = "WebSockets come over HTTP/1.1."
  }
}

run "environment" {
  assert {
    condition = { for env in google_cloud_run_v2_service.segmill[0].template[0].containers[0].env : env.name => env.value } == {
      SEGMILL_OPS_LISTEN    = "0.0.0.0:9090"
      SEGMILL_WORKERS       = "4"
      SEGMILL_MAX_SESSIONS  = "30"
      SEGMILL_SESSION_LIMIT = "1800s"
      SEGMILL_RUN_SERVICE   = "projects/segmill-test/locations/europe-west1/services/segmill"
      SEGMILL_SCRATCH_DIR   = "/scratch"
      SEGMILL_SCRATCH_BYTES = "512MiB"
      SEGMILL_RESUME_KEY    = "@/secrets/resume-key/keys"
    }
    error_message = "The environment is not what it should be."
  }

  assert {
    condition     = google_cloud_run_v2_service.segmill[0].template[0].timeout == "3600s"
    error_message = "Cloud Run's limit of a request's life is an hour."
  }

  assert {
    condition     = one([for volume in google_cloud_run_v2_service.segmill[0].template[0].volumes : one(volume.empty_dir).size_limit if volume.name == "scratch"]) == "512Mi"
    error_message = "Scratch space has a size."
  }

  assert {
    condition     = toset([for mount in google_cloud_run_v2_service.segmill[0].template[0].containers[0].volume_mounts : mount.mount_path]) == toset(["/scratch", "/secrets/resume-key"])
    error_message = "The service sees its scratch space and its keys."
  }

  assert {
    condition     = alltrue([for secret in google_secret_manager_secret_version.monitoring[*] : secret.secret == google_secret_manager_secret.secrets["monitoring"].id])
    error_message = "Terraform adds no version but the sidecar's configuration."
  }
}

run "sidecar" {
  assert {
    condition     = google_cloud_run_v2_service.segmill[0].template[0].containers[1].depends_on == tolist(["segmill"])
    error_message = "The sidecar starts after the service."
  }

  assert {
    condition     = one([for volume in google_cloud_run_v2_service.segmill[0].template[0].volumes : one(one(volume.secret).items).version if volume.name == "monitoring"]) == "7"
    error_message = "A new configuration of the sidecar is a new revision."
  }

  assert {
    condition = yamldecode(google_secret_manager_secret_version.monitoring.secret_data) == {
      apiVersion = "monitoring.googleapis.com/v1beta"
      kind       = "RunMonitoring"
      metadata   = { name = "segmill" }
      spec       = { endpoints = [{ port = 9090, path = "/metrics", interval = "30s" }] }
    }
    error_message = "It scrapes the ops port every 30 s."
  }
}

run "with_tokens_and_pages" {
  variables {
    public          = true
    auth            = { keys_version = "3", audience = "segmill", issuer = "https://login.example.com/" }
    allow_origins   = ["https://a.example.com", "https://b.example.com"]
    readiness_probe = true
  }

  assert {
    condition = alltrue([for name, value in {
      SEGMILL_AUTH_KEYS     = "@/secrets/auth-keys/keys"
      SEGMILL_AUTH_AUDIENCE = "segmill"
      SEGMILL_AUTH_ISSUER   = "https://login.example.com/"
      SEGMILL_ALLOW_ORIGIN  = "https://a.example.com,https://b.example.com"
    } : contains([for env in google_cloud_run_v2_service.segmill[0].template[0].containers[0].env : "${env.name}=${env.value}"], "${name}=${value}")])
    error_message = "Tokens are asked for."
  }

  assert {
    condition     = one([for volume in google_cloud_run_v2_service.segmill[0].template[0].volumes : one(one(volume.secret).items).version if volume.name == "auth-keys"]) == "3"
    error_message = "Keys are of the version that is asked for."
  }

  assert {
    condition     = [for member in google_cloud_run_v2_service_iam_member.invokers : member.member] == ["allUsers"]
    error_message = "Everyone is let through to the service, which asks for tokens."
  }

  assert {
    condition     = one(google_monitoring_uptime_check_config.capabilities[0].http_check[0].accepted_response_status_codes).status_value == 401 && length(google_monitoring_uptime_check_config.capabilities[0].http_check[0].service_agent_authentication) == 0
    error_message = "The uptime check has no token, and 401 is the service's answer."
  }

  assert {
    condition     = google_cloud_run_v2_service.segmill[0].launch_stage == "BETA" && google_cloud_run_v2_service.segmill[0].template[0].containers[0].readiness_probe[0].http_get[0].path == "/health/ready"
    error_message = "A full instance gets nothing new."
  }
}

run "before_there_is_an_image" {
  variables {
    image = null
  }

  assert {
    condition = alltrue([
      length(google_cloud_run_v2_service.segmill) == 0,
      length(google_cloud_run_v2_service.rollback) == 0,
      google_artifact_registry_repository.images.repository_id == "segmill",
      length(google_secret_manager_secret.secrets) == 4,
      output.url == null,
    ])
    error_message = "What an image is built with is there before it."
  }
}

run "sizing" {
  assert {
    condition = alltrue([
      output.sizing.sessions_per_instance == 30,
      output.sizing.sessions_at_most == 900,
      abs(output.sizing.instance_per_hour - 0.3564) < 0.00001,
      abs(output.sizing.session_hour_full - 0.01188) < 0.00001,
    ])
    error_message = "5 vCPU and 4.5 GiB cost 0.3564 an hour."
  }
}

run "sizing_for_a_peak" {
  variables {
    peak_sessions = 601
  }

  assert {
    condition     = output.sizing.instances_for_peak == 21
    error_message = "601 sessions want 21 instances."
  }
}

run "fewer_sessions_than_requests" {
  variables {
    sessions_per_vcpu = 2
  }

  assert {
    condition     = output.sizing.sessions_per_instance == 8
    error_message = "What is measured is the limit."
  }

  expect_failures = [check.concurrency]
}

run "more_sessions_than_fit" {
  variables {
    peak_sessions = 901
  }

  expect_failures = [check.peak]
}
