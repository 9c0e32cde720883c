# Where

variable "project" {
  description = "Project, of its own for each environment: alerts see every Segmill in it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project's ID: 6 to 30 lowercase letters, digits and hyphens, a letter first."
  }
}

variable "region" {
  description = "Region of Cloud Run and of the images."
  type        = string
  default     = "europe-west1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "A region such as europe-west1, not a zone or a multi-region."
  }
}

variable "name" {
  description = "Name of the service; all else is named after it."
  type        = string
  default     = "segmill"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,16}[a-z0-9]$", var.name))
    error_message = "3 to 18 lowercase letters, digits and hyphens, a letter first: names of accounts are made of it."
  }
}

variable "labels" {
  description = "Labels of everything, for the bill."
  type        = map(string)
  default     = { app = "segmill" }
}

variable "deletion_protection" {
  description = "Whether terraform destroy is refused for the service."
  type        = bool
  default     = true
}

# The image

variable "image" {
  description = "Image by digest: the rollback service's, and the service's first; later ones come with releases. Null before there is any: then all but the two services is made."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("^[^@ ]+@sha256:[0-9a-f]{64}$", var.image))
    error_message = "An image by digest, HOST/PROJECT/REPOSITORY/NAME@sha256:…: a tag can be moved."
  }
}

variable "images_kept" {
  description = "Newest images that are never cleaned up, however old."
  type        = number
  default     = 30

  validation {
    condition     = var.images_kept >= 10 && floor(var.images_kept) == var.images_kept
    error_message = "At least 10: the stable image and those to go back to have to be there."
  }
}

# Size

variable "cpu" {
  description = "vCPU of the service's container."
  type        = number
  default     = 4

  validation {
    condition     = contains([1, 2, 4, 6, 8], var.cpu)
    error_message = "1, 2, 4, 6 or 8."
  }
}

variable "memory_gib" {
  description = "Memory of the service's container in GiB, scratch space included."
  type        = number
  default     = 4

  validation {
    condition     = floor(var.memory_gib) == var.memory_gib && var.memory_gib >= max(1, var.cpu / 2) && var.memory_gib <= 32
    error_message = "Whole GiB, at least 1 and half the vCPU, at most 32: what Cloud Run has."
  }
}

variable "scratch_mib" {
  description = "Scratch space of an instance in MiB. It is memory."
  type        = number
  default     = 512

  validation {
    condition     = floor(var.scratch_mib) == var.scratch_mib && var.scratch_mib >= 64 && var.scratch_mib <= var.memory_gib * 512
    error_message = "Whole MiB, at least 64, at most half the memory."
  }
}

variable "concurrency" {
  description = "Most requests of an instance at once; an open WebSocket is one for all of its life."
  type        = number
  default     = 30

  validation {
    condition     = var.concurrency >= 1 && var.concurrency <= 1000 && floor(var.concurrency) == var.concurrency
    error_message = "1 to 1000."
  }
}

variable "min_instances" {
  description = "Instances that run without any load, over all revisions with traffic."
  type        = number
  default     = 2

  validation {
    condition     = var.min_instances >= 0 && floor(var.min_instances) == var.min_instances
    error_message = "0 or more."
  }
}

variable "max_instances" {
  description = "Most instances, over all revisions with traffic."
  type        = number
  default     = 30

  validation {
    condition     = var.max_instances >= max(1, var.min_instances) && floor(var.max_instances) == var.max_instances
    error_message = "At least min_instances, and 1."
  }
}

variable "sessions_per_vcpu" {
  description = "Sessions that a vCPU serves in time, measured with the sources and outputs that are yours: docs/performance.md. 7.5 is what 30 on 4 vCPU suppose."
  type        = number
  default     = 7.5

  validation {
    condition     = var.sessions_per_vcpu > 0
    error_message = "More than 0."
  }
}

variable "peak_sessions" {
  description = "Sessions at once that have to fit, if that is to be checked against max_instances."
  type        = number
  default     = null
}

variable "request_timeout_s" {
  description = "Cloud Run's limit of a request's life, a WebSocket's too, in seconds."
  type        = number
  default     = 3600

  validation {
    condition     = var.request_timeout_s >= 300 && var.request_timeout_s <= 3600
    error_message = "300 to 3600."
  }
}

variable "session_limit_s" {
  description = "Longest life of a session in seconds; then its client goes on over a new connection, which is how a session moves to another revision."
  type        = number
  default     = 1800

  validation {
    condition     = var.session_limit_s >= 60 && var.session_limit_s <= var.request_timeout_s - 60
    error_message = "60 s or more, and a minute less than request_timeout_s: a session is handed over before it is cut."
  }
}

variable "readiness_probe" {
  description = "Whether Cloud Run sends nothing new to an instance that says that it is full. A preview feature: the service is then at launch stage BETA."
  type        = bool
  default     = false
}

variable "sidecar" {
  description = "Image, vCPU and MiB of the Managed Prometheus sidecar."
  type = object({
    image      = optional(string, "us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar:1.2.0")
    cpu        = optional(number, 1)
    memory_mib = optional(number, 512)
  })
  default = {}
}

variable "prices" {
  description = "Dollars for a vCPU-second and a GiB-second with instance-based billing: list prices of tier 1 regions, to be checked."
  type = object({
    vcpu_s = optional(number, 0.000018)
    gib_s  = optional(number, 0.000002)
  })
  default = {}
}

# Access

variable "public" {
  description = "Whether Cloud Run lets everyone through (allUsers may invoke it); the service then asks for a token itself."
  type        = bool
  default     = false

  validation {
    condition     = !var.public || var.auth != null
    error_message = "A public service needs auth: else anyone may transcode at your cost."
  }
}

variable "invokers" {
  description = "Who may invoke the service where it isn't public: user:, group:, serviceAccount:, domain:."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.invokers : can(regex("^(user|group|serviceAccount|domain):.+$", member))])
    error_message = "user:, group:, serviceAccount: or domain:; for everyone there is public."
  }
}

variable "auth" {
  description = "What a client's token is verified with: a version of the secret NAME-auth-keys (JWKS or PEM), or the URL of a JWKS; and whom it must be for and from. Null: no token is asked for."
  type = object({
    keys_version = optional(string)
    jwks_url     = optional(string)
    audience     = string
    issuer       = string
  })
  default = null

  validation {
    condition     = var.auth == null || (try(var.auth.keys_version, null) == null) != (try(var.auth.jwks_url, null) == null)
    error_message = "Either keys_version or jwks_url."
  }

  validation {
    condition     = try(var.auth.jwks_url, null) == null || startswith(coalesce(try(var.auth.jwks_url, null), "-"), "https://")
    error_message = "Keys are fetched over https."
  }
}

variable "resume_key_version" {
  description = "Version of the secret NAME-resume-key. A number, so that a new key comes with a revision and can be taken back with it."
  type        = string
  default     = "1"

  validation {
    condition     = can(regex("^[1-9][0-9]*$", var.resume_key_version))
    error_message = "A version's number."
  }
}

variable "allow_origins" {
  description = "Origins whose pages may use the service, https://HOST[:PORT]."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for origin in var.allow_origins : can(regex("^https://[^/ ]+$", origin))])
    error_message = "https://HOST[:PORT], without a path."
  }
}

# Who is told

variable "emails" {
  description = "Addresses that every alert goes to."
  type        = set(string)

  validation {
    condition     = length(var.emails) > 0 && alltrue([for address in var.emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "At least one address."
  }
}

variable "slack_channel" {
  description = "Slack channel that alerts go to as well, #NAME."
  type        = string
  default     = null

  validation {
    condition     = var.slack_channel == null || can(regex("^#.+$", var.slack_channel))
    error_message = "#NAME."
  }
}

variable "slack_token" {
  description = "Slack's token; it is not kept in the state. A new one also needs a new slack_token_version."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true
}

variable "slack_token_version" {
  description = "Raised with each new slack_token."
  type        = number
  default     = 1
}

variable "runbook_url" {
  description = "Where docs/operations.md can be read, if alerts are to link to it."
  type        = string
  default     = null
}

# What it may cost

variable "budget" {
  description = "Budget of the project in a month, in the currency of the billing account; told at half, nine tenths, all, and when all is foreseen."
  type = object({
    billing_account = string
    amount          = number
  })
  default = null

  validation {
    condition     = var.budget == null || (can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", try(var.budget.billing_account, ""))) && try(var.budget.amount >= 1 && floor(var.budget.amount) == var.budget.amount, false))
    error_message = "An account XXXXXX-XXXXXX-XXXXXX and a whole amount of 1 or more."
  }
}
