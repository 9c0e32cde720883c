terraform {
  # 1.11: write-only arguments, which keep Slack's token out of the state.
  required_version = ">= 1.11"

  required_providers {
    google = {
      source = "hashicorp/google"
      # What make terraform-test checks against.
      version = "~> 8.0"
    }
  }

  # terraform init -backend-config=bucket=NAME -backend-config=prefix=segmill
  backend "gcs" {}
}

provider "google" {
  project = var.project
  region  = var.region

  # Budgets are an API of the billing account: its calls are counted to this project.
  billing_project       = var.project
  user_project_override = true

  default_labels = var.labels
}
