# What is not let through.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}

variables {
  project = "segmill-test"
  emails  = ["oncall@example.com"]
  image   = "europe-west1-docker.pkg.dev/segmill-test/segmill/segmill@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "a_zone_of_a_project" {
  command = plan
  variables {
    project = "Segmill Test"
  }
  expect_failures = [var.project]
}

run "a_zone" {
  command = plan
  variables {
    region = "europe-west1-b"
  }
  expect_failures = [var.region]
}

run "a_long_name" {
  command = plan
  variables {
    name = "a-name-that-accounts-cant-have"
  }
  expect_failures = [var.name]
}

run "a_tag" {
  command = plan
  variables {
    image = "europe-west1-docker.pkg.dev/segmill-test/segmill/segmill:latest"
  }
  expect_failures = [var.image]
}

run "few_images" {
  command = plan
  variables {
    images_kept = 2
  }
  expect_failures = [var.images_kept]
}

run "three_vcpu" {
  command = plan
  variables {
    cpu = 3
  }
  expect_failures = [var.cpu]
}

run "little_memory" {
  command = plan
  variables {
    memory_gib = 1
  }
  expect_failures = [var.memory_gib]
}

run "scratch_that_takes_all_memory" {
  command = plan
  variables {
    scratch_mib = 4096
  }
  expect_failures = [var.scratch_mib]
}

run "no_requests" {
  command = plan
  variables {
    concurrency = 0
  }
  expect_failures = [var.concurrency]
}

run "fewer_than_the_least" {
  command = plan
  variables {
    max_instances = 1
  }
  expect_failures = [var.max_instances]
}

run "half_an_instance" {
  command = plan
  variables {
    min_instances = 1.5
  }
  expect_failures = [var.min_instances]
}

run "no_sessions" {
  command = plan
  variables {
    sessions_per_vcpu = 0
  }
  expect_failures = [var.sessions_per_vcpu]
}

run "more_than_an_hour" {
  command = plan
  variables {
    request_timeout_s = 7200
  }
  expect_failures = [var.request_timeout_s]
}

run "sessions_that_are_cut" {
  command = plan
  variables {
    session_limit_s = 3600
  }
  expect_failures = [var.session_limit_s]
}

run "public_without_tokens" {
  command = plan
  variables {
    public = true
  }
  expect_failures = [var.public]
}

run "everyone_by_the_back_door" {
  command = plan
  variables {
    invokers = ["allUsers"]
  }
  expect_failures = [var.invokers]
}

run "keys_twice" {
  command = plan
  variables {
    auth = { keys_version = "1", jwks_url = "https://login.example.com/jwks", audience = "a", issuer = "i" }
  }
  expect_failures = [var.auth]
}

run "no_keys" {
  command = plan
  variables {
    auth = { audience = "a", issuer = "i" }
  }
  expect_failures = [var.auth]
}

run "keys_over_http" {
  command = plan
  variables {
    auth = { jwks_url = "http://login.example.com/jwks", audience = "a", issuer = "i" }
  }
  expect_failures = [var.auth]
}

run "whichever_key_is_latest" {
  command = plan
  variables {
    resume_key_version = "latest"
  }
  expect_failures = [var.resume_key_version]
}

run "any_origin" {
  command = plan
  variables {
    allow_origins = ["*"]
  }
  expect_failures = [var.allow_origins]
}

run "nobody" {
  command = plan
  variables {
    emails = []
  }
  expect_failures = [var.emails]
}

run "a_channel_without_its_sign" {
  command = plan
  variables {
    slack_channel = "segmill"
  }
  expect_failures = [var.slack_channel]
}

run "half_a_budget" {
  command = plan
  variables {
    budget = { billing_account = "mine", amount = 100 }
  }
  expect_failures = [var.budget]
}

