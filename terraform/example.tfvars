# terraform apply -var-file=example.tfvars, after a look at each line. The first time without image: README.md.
project = "my-segmill-prod"
region  = "europe-west1"
labels  = { app = "segmill", env = "prod" }

# image = "europe-west1-docker.pkg.dev/my-segmill-prod/segmill/segmill@sha256:…"

public = true
auth = {
  jwks_url = "https://login.example.com/.well-known/jwks.json"
  audience = "segmill"
  issuer   = "https://login.example.com/"
}
allow_origins = ["https://studio.example.com"]

# Measured: docs/performance.md.
sessions_per_vcpu = 7.5
peak_sessions     = 600

emails      = ["oncall@example.com"]
runbook_url = "https://git.example.com/segmill/docs/operations.md"

# budget = { billing_account = "012345-6789AB-CDEF01", amount = 2000 }
