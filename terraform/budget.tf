# What the project costs in a month; an instance's price is not in the metrics.

resource "google_billing_budget" "project" {
  count = var.budget == null ? 0 : 1

  billing_account = var.budget.billing_account
  display_name    = "${var.name} (${var.project})"

  budget_filter {
    projects        = ["projects/${local.number}"]
    calendar_period = "MONTH"
  }

  amount {
    specified_amount {
      units = tostring(var.budget.amount)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }

  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  all_updates_rule {
    # Five addresses, and nothing but addresses, is what budgets take.
    monitoring_notification_channels = slice(local.mailboxes, 0, min(5, length(local.mailboxes)))
    disable_default_iam_recipients   = true
  }

  depends_on = [google_project_service.apis]
}
