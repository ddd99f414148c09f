"""Grafana's dashboards: what each shows, as PromQL, and their JSON by Grafana's own builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos, VariableRefresh

from scripts import slo

COLUMNS, WIDTH, HEIGHT = 2, 12, 8
"""Grafana's grid is 24 wide."""
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
RATE = "$__rate_interval"
SERVICE, MODEL_NAME = 'grpc_service=~"$service"', 'model=~"$model"'
RPC = 'grpc_service=~"lectern.+|inference.+"'


@dataclass(frozen=True)
class Panel:
    """A graph over time.

    Args:
        unit: as Grafana names it.
        lines: legend -> PromQL; `{{label}}` in a legend is the label's value.
    """

    title: str
    unit: str
    lines: Mapping[str, str]


@dataclass(frozen=True)
class Board:
    """A dashboard; `variables` are what its user chooses: name -> where its values come from."""

    title: str
    panels: tuple[Panel, ...]
    variables: Mapping[str, str]


def quantiles(metric: str, labels: str, by: str, legend: str) -> dict[str, str]:
    """Median and 95th percentile of a histogram."""
    expression = f"sum by (le, {by}) (rate({metric}_bucket{{{labels}}}[{RATE}]))"
    return {f"{legend} p{q}": f"histogram_quantile(0.{q}, {expression})" for q in (50, 95)}


OVERVIEW = Board(
    "Overview",
    (
        Panel("Pods that answer", "short", {"{{job}}": 'sum by (job) (up{job="lectern"})'}),
        Panel(
            "Calls",
            "reqps",
            {"{{grpc_service}}": f"sum by (grpc_service) (rate(grpc_server_handled_total{{{RPC}}}[{RATE}]))"},
        ),
        Panel("Failed calls", "percentunit", {"{{grpc_service}}": "grpc_service:grpc_server_errors:ratio_rate5m"}),
        Panel(
            "Slowest twentieth of calls", "s", {"{{grpc_method}}": "grpc_method:grpc_server_handling_seconds:p95_5m"}
        ),
        Panel("Requests in queues", "short", {"{{model}}": "sum by (model) (lectern_queue_depth)"}),
        Panel(
            "Requests turned away",
            "reqps",
            {"{{model}} {{reason}}": "model_reason:lectern_rejected:rate5m or on () vector(0)"},
        ),
        Panel("Versions that do not answer", "short", {"versions": "count(lectern_model_ready == 0) or vector(0)"}),
        Panel("Memory", "bytes", {"{{instance}}": 'process_resident_memory_bytes{job="lectern"}'}),
        Panel("CPUs", "short", {"{{instance}}": f'rate(process_cpu_seconds_total{{job="lectern"}}[{RATE}])'}),
        Panel("Alerts", "short", {"{{alertname}}": 'count by (alertname) (ALERTS{alertstate="firing"}) or vector(0)'}),
    ),
    {},
)
CAPABILITY = Board(
    "Capability",
    (
        Panel(
            "Calls",
            "reqps",
            {
                "{{grpc_method}} {{grpc_code}}": "sum by (grpc_method, grpc_code) "
                f"(rate(grpc_server_handled_total{{{SERVICE}}}[{RATE}]))"
            },
        ),
        Panel(
            "Time of a call",
            "s",
            quantiles("grpc_server_handling_seconds", SERVICE, "grpc_method", "{{grpc_method}}"),
        ),
        Panel(
            "Calls under way",
            "short",
            {
                "{{grpc_method}}": f"sum by (grpc_method) (grpc_server_started_total{{{SERVICE}}})"
                f" - sum by (grpc_method) (grpc_server_handled_total{{{SERVICE}}})"
            },
        ),
        Panel(
            "Calls of each pod",
            "reqps",
            {"{{instance}}": f"sum by (instance) (rate(grpc_server_started_total{{{SERVICE}}}[{RATE}]))"},
        ),
        Panel("Time to decode an input", "s", quantiles("lectern_codec_seconds", "", "codec", "{{codec}}")),
        Panel("Items that wait for a thread", "short", {"{{pool}}": "sum by (pool) (lectern_pool_waiting)"}),
        Panel("Lag of the event loop", "s", quantiles("lectern_loop_lag_seconds", "", "instance", "{{instance}}")),
        Panel(
            "Memory that requests hold",
            "percentunit",
            {"{{budget}}": "sum by (budget) (lectern_budget_held_bytes) / sum by (budget) (lectern_budget_bytes)"},
        ),
    ),
    {"service": "label_values(grpc_server_started_total, grpc_service)"},
)
MODEL = Board(
    "Model",
    (
        Panel("Versions", "short", {"version {{version}}": f"count by (version) (lectern_model_info{{{MODEL_NAME}}})"}),
        Panel("Time in the queue", "s", quantiles("lectern_queue_seconds", MODEL_NAME, "model", "{{model}}")),
        Panel("Time of a batch", "s", quantiles("lectern_inference_seconds", MODEL_NAME, "model", "{{model}}")),
        Panel("Items in a batch", "short", quantiles("lectern_batch_size", MODEL_NAME, "model", "{{model}}")),
        Panel("Requests in the queue", "short", {"{{model}}": f"sum by (model) (lectern_queue_depth{{{MODEL_NAME}}})"}),
        Panel(
            "Requests turned away",
            "reqps",
            {"{{reason}}": f"sum by (reason) (rate(lectern_rejected_total{{{MODEL_NAME}}}[{RATE}])) or vector(0)"},
        ),
        Panel(
            "Share of an instance's time that it computes",
            "percentunit",
            {
                "{{model}}": f"sum by (model) (rate(lectern_inference_seconds_sum{{{MODEL_NAME}}}[{RATE}]))"
                f" / count by (model) (lectern_model_info{{{MODEL_NAME}}})"
            },
        ),
        Panel(
            "Since the last request",
            "s",
            {
                "{{model}}": "time() - "
                f"max by (model) (lectern_graph_last_request_timestamp_seconds{{{MODEL_NAME}}} > 0)"
            },
        ),
        Panel(
            "Tokens",
            "short",
            {"{{model}}": f"sum by (model) (rate(lectern_decode_tokens_total{{{MODEL_NAME}}}[{RATE}])) or vector(0)"},
        ),
        Panel(
            "Texts that wait for a row of the batch",
            "short",
            {"{{model}}": f"sum by (model) (lectern_decode_waiting{{{MODEL_NAME}}}) or vector(0)"},
        ),
    ),
    {"model": "label_values(lectern_model_info, model)"},
)
GPU = Board(
    "GPU and Triton",
    (
        Panel("Graphs by what computes them", "short", {"{{provider}}": "count by (provider) (lectern_model_info)"}),
        Panel(
            "Items computed",
            "short",
            {
                "{{provider}}": f"sum by (provider) (rate(lectern_batch_size_sum[{RATE}])"
                " * on (instance, model, version) group_left (provider) lectern_model_info)"
            },
        ),
        Panel("GPU in use", "percentunit", {"{{gpu_uuid}}": "avg by (gpu_uuid) (nv_gpu_utilization)"}),
        Panel(
            "GPU memory in use",
            "percentunit",
            {"{{gpu_uuid}}": "avg by (gpu_uuid) (nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes)"},
        ),
        Panel(
            "Triton: requests",
            "reqps",
            {
                "{{model}}": f"sum by (model) (rate(nv_inference_request_success[{RATE}]))",
                "{{model}} failed": f"sum by (model) (rate(nv_inference_request_failure[{RATE}]))",
            },
        ),
        Panel(
            "Triton: mean time in the queue",
            "µs",
            {
                "{{model}}": f"sum by (model) (rate(nv_inference_queue_duration_us[{RATE}]))"
                f" / sum by (model) (rate(nv_inference_request_success[{RATE}]))"
            },
        ),
    ),
    {},
)
OBJECTIVES = Board(
    "Objectives",
    tuple(
        panel
        for o, what in ((slo.ERRORS, "fail"), (slo.SLOW, "are slow"))
        for panel in (
            Panel(
                f"Calls that {what}",
                "percentunit",
                {
                    f"{{{{grpc_service}}}} {window}": f"grpc_service:grpc_server_{o.name}:ratio_rate{window}"
                    for window in ("5m", "1h", "1d")
                },
            ),
            Panel(
                f"Budget of calls that {what}, left of three days",
                "percentunit",
                {
                    "{{grpc_service}}": f"1 - grpc_service:grpc_server_{o.name}:ratio_rate3d / {1 - o.target:.4g}",
                },
            ),
            Panel(
                f"How many times too fast calls {what}",
                "short",
                {"{{grpc_service}}": f"grpc_service:grpc_server_{o.name}:ratio_rate1h / {1 - o.target:.4g}"},
            ),
        )
    ),
    {},
)
BOARDS = {"overview": OVERVIEW, "capability": CAPABILITY, "model": MODEL, "gpu": GPU, "objectives": OBJECTIVES}


def document(name: str) -> str:
    """The JSON of a dashboard."""
    board = BOARDS[name]
    built = (
        dashboard.Dashboard(f"Lectern / {board.title}")
        .uid(f"lectern-{name}")
        .tags(["lectern"])
        .time("now-1h", "now")
        .refresh("30s")
        .with_variable(dashboard.DatasourceVariable("source").type("prometheus").label("Prometheus"))
    )
    for variable, query in board.variables.items():
        chosen = dashboard.QueryVariable(variable).datasource(SOURCE).query(query).include_all(True).all_value(".+")
        built.with_variable(chosen.multi(True).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED))
    for place, panel in enumerate(board.panels):
        built.with_panel(_graph(panel, place))
    return JSONEncoder(sort_keys=True, indent=1).encode(built.build()) + "\n"


def _graph(panel: Panel, place: int) -> timeseries.Panel:
    row, column = divmod(place, COLUMNS)
    graph = timeseries.Panel().title(panel.title).unit(panel.unit).datasource(SOURCE).min(0)
    graph.legend(common.VizLegendOptions().show_legend(True))
    graph.grid_pos(GridPos(h=HEIGHT, w=WIDTH, x=column * WIDTH, y=row * HEIGHT))
    for letter, (legend, expression) in zip("ABCDEF", panel.lines.items(), strict=False):
        graph.with_target(prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter))
    return graph
