# Who may do what.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_resource "google_cloud_run_v2_service" {
    defaults = { uri = "https://segmill-abcdefghij-ew.a.run.app" }
  }
}

override_resource {
  target = google_service_account.run
  values = { email = "segmill-run@segmill-test.iam.gserviceaccount.com", name = "projects/segmill-test/serviceAccounts/segmill-run@segmill-test.iam.gserviceaccount.com" }
}
override_resource {
  target = google_service_account.rollout
  values = { email = "segmill-rollout@segmill-test.iam.gserviceaccount.com", name = "projects/segmill-test/serviceAccounts/segmill-rollout@segmill-test.iam.gserviceaccount.com" }
}
override_resource {
  target = google_service_account.build
  values = { email = "segmill-build@segmill-test.iam.gserviceaccount.com", name = "projects/segmill-test/serviceAccounts/segmill-build@segmill-test.iam.gserviceaccount.com" }
}
override_resource {
  target = google_service_account.push
  values = { email = "segmill-push@segmill-test.iam.gserviceaccount.com", name = "projects/segmill-test/serviceAccounts/segmill-push@segmill-test.iam.gserviceaccount.com" }
}
override_resource {
  target = google_project_iam_custom_role.traffic
  values = { name = "projects/segmill-test/roles/segmill_traffic" }
}

variables {
  project = "segmill-test"
  emails  = ["oncall@example.com"]

  # An ephemeral variable that is null at the plan has to be at the apply; terraform test does not see that it is.
  slack_token = ""
  image       = "europe-west1-docker.pkg.dev/segmill-test/segmill/segmill@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "of_the_project" {
  # All of them, so that a new one is looked at.
  assert {
    condition = toset([for grant in google_project_iam_member.roles : "${grant.member} ${grant.role}"]) == toset([
      "serviceAccount:segmill-run@segmill-test.iam.gserviceaccount.com roles/monitoring.metricWriter",
      "serviceAccount:segmill-rollout@segmill-test.iam.gserviceaccount.com roles/run.viewer",
      "serviceAccount:segmill-rollout@segmill-test.iam.gserviceaccount.com roles/monitoring.viewer",
      "serviceAccount:segmill-rollout@segmill-test.iam.gserviceaccount.com roles/logging.logWriter",
      "serviceAccount:segmill-build@segmill-test.iam.gserviceaccount.com roles/run.viewer",
      "serviceAccount:segmill-build@segmill-test.iam.gserviceaccount.com roles/monitoring.viewer",
      "serviceAccount:segmill-build@segmill-test.iam.gserviceaccount.com roles/logging.logWriter",
    ])
    error_message = "A role of the whole project is new, or gone."
  }

  assert {
    condition     = alltrue([for grant in google_project_iam_member.roles : !contains(["roles/owner", "roles/editor", "roles/viewer"], grant.role)])
    error_message = "No primitive roles."
  }
}

run "of_the_service" {
  assert {
    condition = alltrue([
      google_cloud_run_v2_service_iam_member.moves_traffic[0].member == "serviceAccount:segmill-rollout@segmill-test.iam.gserviceaccount.com",
      google_cloud_run_v2_service_iam_member.moves_traffic[0].role == "projects/segmill-test/roles/segmill_traffic",
      google_cloud_run_v2_service_iam_member.deploys[0].member == "serviceAccount:segmill-build@segmill-test.iam.gserviceaccount.com",
      google_cloud_run_v2_service_iam_member.deploys[0].role == "roles/run.developer",
      google_cloud_run_v2_service_iam_member.reads_itself[0].member == "serviceAccount:segmill-run@segmill-test.iam.gserviceaccount.com",
      google_cloud_run_v2_service_iam_member.reads_itself[0].role == "roles/run.viewer",
    ])
    error_message = "Traffic is the roll-out's, revisions the build's, and the service only reads itself."
  }

  assert {
    condition     = google_project_iam_custom_role.traffic.permissions == toset(["run.services.get", "run.services.update"])
    error_message = "Moving traffic takes no more."
  }

  assert {
    condition     = google_cloud_run_v2_service.segmill[0].template[0].service_account == "segmill-run@segmill-test.iam.gserviceaccount.com" && google_cloud_run_v2_service.rollback[0].template[0].service_account == "segmill-rollout@segmill-test.iam.gserviceaccount.com"
    error_message = "Each service runs as its own account."
  }
}

run "invokers" {
  variables {
    invokers = ["group:studio@example.com"]
  }

  assert {
    condition = toset([for grant in google_cloud_run_v2_service_iam_member.invokers : grant.member]) == toset([
      "group:studio@example.com",
      "serviceAccount:segmill-build@segmill-test.iam.gserviceaccount.com",
      "serviceAccount:service-123456789012@gcp-sa-monitoring-notification.iam.gserviceaccount.com",
    ])
    error_message = "Those who are named, the build's gate, and the uptime check; never allUsers unless it is asked for."
  }
}

run "rollback_service" {
  assert {
    condition     = google_cloud_run_v2_service_iam_member.push_invokes[0].member == "serviceAccount:segmill-push@segmill-test.iam.gserviceaccount.com" && google_cloud_run_v2_service_iam_member.push_invokes[0].role == "roles/run.invoker"
    error_message = "Nobody but the push account invokes the rollback service."
  }

  assert {
    condition     = google_cloud_run_v2_service.rollback[0].ingress == "INGRESS_TRAFFIC_INTERNAL_ONLY" && google_cloud_run_v2_service.rollback[0].template[0].scaling[0].max_instance_count == 1
    error_message = "One instance, and not from outside."
  }

  assert {
    condition = alltrue([
      google_cloud_run_v2_service.rollback[0].template[0].containers[0].image == var.image,
      google_cloud_run_v2_service.rollback[0].template[0].containers[0].args == tolist(["rollout", "serve"]),
    ])
    error_message = "It runs the roll-out commands of the image that Terraform names."
  }

  assert {
    condition = { for env in google_cloud_run_v2_service.rollback[0].template[0].containers[0].env : env.name => env.value } == {
      SEGMILL_ROLLOUT_SERVICE  = "projects/segmill-test/locations/europe-west1/services/segmill"
      SEGMILL_ROLLOUT_AUDIENCE = google_pubsub_subscription.rollback[0].push_config[0].oidc_token[0].audience
      SEGMILL_ROLLOUT_ACCOUNT  = "segmill-push@segmill-test.iam.gserviceaccount.com"
    }
    error_message = "It looks after this service, and hears the push account alone."
  }

  assert {
    condition = alltrue([
      google_pubsub_subscription.rollback[0].push_config[0].oidc_token[0].service_account_email == "segmill-push@segmill-test.iam.gserviceaccount.com",
      contains(google_cloud_run_v2_service.rollback[0].custom_audiences, google_pubsub_subscription.rollback[0].push_config[0].oidc_token[0].audience),
      google_pubsub_subscription.rollback[0].dead_letter_policy[0].max_delivery_attempts == 20,
      google_pubsub_subscription.rollback[0].expiration_policy[0].ttl == "",
    ])
    error_message = "Alerts are pushed as the push account, to an audience that the service takes, and kept where they fail."
  }
}

run "secrets" {
  assert {
    condition = toset([for grant in google_secret_manager_secret_iam_member.readers : "${grant.member} ${grant.role}"]) == toset([
      "serviceAccount:segmill-run@segmill-test.iam.gserviceaccount.com roles/secretmanager.secretAccessor",
      "serviceAccount:segmill-build@segmill-test.iam.gserviceaccount.com roles/secretmanager.secretAccessor",
    ])
    error_message = "Secrets are read by the service and the build."
  }

  assert {
    condition     = toset([for name, grant in google_secret_manager_secret_iam_member.readers : name if grant.member == "serviceAccount:segmill-build@segmill-test.iam.gserviceaccount.com"]) == toset(["build reads gate-token"])
    error_message = "The build reads the gate's token and no key."
  }
}

run "agents" {
  assert {
    condition     = google_pubsub_topic_iam_member.monitoring_publishes.member == "serviceAccount:service-123456789012@gcp-sa-monitoring-notification.iam.gserviceaccount.com" && google_pubsub_topic_iam_member.monitoring_publishes.role == "roles/pubsub.publisher"
    error_message = "Cloud Monitoring may publish alerts."
  }

  assert {
    condition = alltrue([for grant in [google_pubsub_topic_iam_member.pubsub_buries, google_pubsub_subscription_iam_member.pubsub_buries[0], google_service_account_iam_member.pubsub_signs] :
    grant.member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"])
    error_message = "Pub/Sub may sign pushes, and put aside what is not taken."
  }
}
