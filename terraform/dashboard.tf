# Grafana's dashboard for Cloud Monitoring, made from the very file: a query is written once.

locals {
  grafana = jsondecode(file("${path.module}/../deploy/grafana/segmill.json"))

  # Units of Grafana as UCUM has them.
  units = { s = "s", bytes = "By", Bps = "By/s", percentunit = "10^2.%", short = "1", currencyUSD = "{USD}" }

  variables = {
    "$service"         = var.name
    "$revision"        = ".*"
    "$__rate_interval" = "2m"
    "$vcpus"           = tostring(local.instance_vcpu)
    "$gib"             = tostring(local.instance_gib)
    "$vcpu_hour"       = format("%.6g", var.prices.vcpu_s * 3600)
    "$gib_hour"        = format("%.6g", var.prices.gib_s * 3600)
  }

  queries = { for panel in local.grafana.panels : panel.id => [for target in try(panel.targets, []) : {
    query  = join("", [for part in regexall("[$][a-z_]+|[^$]+", target.expr) : lookup(local.variables, part, part)])
    legend = replace(target.legendFormat, "/{{ *([a-z_]+) *}}/", "$${metric.labels.$1}")
  }] }

  # Grafana has 24 columns, Cloud Monitoring 48. What is empty the API leaves out, which would be a difference ever after.
  tiles = [for panel in local.grafana.panels : merge(
    { for key, value in { xPos = panel.gridPos.x * 2, yPos = panel.gridPos.y * 2 } : key => value if value > 0 },
    {
      width  = panel.gridPos.w * 2
      height = panel.gridPos.h * 2
      widget = { for key, value in {
        title         = panel.title
        sectionHeader = panel.type == "row" ? { dividerBelow = true } : null
        xyChart = panel.type == "row" ? null : { for key, value in {
          dataSets = [for query in local.queries[panel.id] : {
            plotType       = "LINE"
            targetAxis     = "Y1"
            legendTemplate = query.legend
            timeSeriesQuery = {
              prometheusQuery = query.query
              unitOverride    = local.units[panel.fieldConfig.defaults.unit]
            }
          }]
          thresholds = [for step in try(panel.fieldConfig.defaults.thresholds.steps, []) : { value = step.value } if step.value != null]
        } : key => value if length(value) > 0 }
      } : key => value if value != null }
    }
  )]

  dashboard = {
    displayName  = "${local.grafana.title}: ${var.name}"
    mosaicLayout = { columns = 48, tiles = local.tiles }
  }
}

resource "google_monitoring_dashboard" "segmill" {
  dashboard_json = jsonencode(local.dashboard)
  depends_on     = [google_project_service.apis]
}
