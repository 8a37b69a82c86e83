"""What each of Grafana's dashboards shows. `dashboards` makes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. queries: legend -> PromQL, in which OF stands for the pods that were chosen.
    unit: as Grafana names it. most: the upper end of the axis.
    """

    title: str
    unit: str
    queries: dict[str, str]
    about: str = ""
    most: float | None = None


def _quantiles(metric: str, by: str, legend: str, *, shares: tuple[float, ...]) -> dict[str, str]:
    return {
        f"p{share * 100:g} {legend}": f"histogram_quantile({share}, "
        f"sum by (le, {by}) (rate({metric}_bucket{{OF}}[$__rate_interval])))"
        for share in shares
    }


def _rate(metric: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{{OF}}[$__rate_interval]))"


def _shown(metric: str, *by: str, how: str = "max") -> str:
    return f"{how} by ({', '.join(by)}) ({metric}{{OF}})"


def _short_answers() -> str:
    """The share of answers that did not cover the whole collection."""
    metric, by = "nestvec_coverage_ratio", "sum by (search_class)"
    short = f'{by} (rate({metric}_bucket{{OF, le="0.999"}}[$__rate_interval]))'
    return f"{short} / {by} (rate({metric}_count{{OF}}[$__rate_interval]))"


_OVERVIEW = (
    Panel(
        "Calls", "reqps", {"{{method}} {{status}}": _rate("nestvec_rpcs_total", "method", "status")}
    ),
    Panel(
        "Time in the server",
        "s",
        _quantiles("nestvec_rpc_seconds", "method", "{{method}}", shares=(0.5, 0.99)),
    ),
    Panel(
        "Calls that wait or run",
        "short",
        {"{{method}}": _rate("nestvec_rpc_seconds_sum", "method")},
        "Seconds spent in calls in a second: how many are under way on average.",
    ),
    Panel(
        "Searches by class and tier",
        "reqps",
        {
            "{{search_class}} {{coarse_dim}} -> {{scoring_dim}}": _rate(
                "nestvec_searches_total", "search_class", "coarse_dim", "scoring_dim"
            )
        },
    ),
    Panel(
        "Certificates of answers",
        "reqps",
        {
            "{{search_class}} {{certificate}}": _rate(
                "nestvec_searches_total", "search_class", "certificate"
            )
        },
    ),
    Panel(
        "Stages, p95",
        "s",
        _quantiles(
            "nestvec_stage_seconds",
            "stage, search_class, coarse_dim",
            "{{stage}} {{search_class}} {{coarse_dim}}",
            shares=(0.95,),
        ),
    ),
    Panel(
        "Searches by class and status, p95",
        "s",
        _quantiles(
            "nestvec_search_seconds",
            "search_class, status",
            "{{search_class}} {{status}}",
            shares=(0.95,),
        ),
    ),
    Panel(
        "Coverage: answers with less than the whole collection",
        "percentunit",
        {
            "{{search_class}}": _short_answers(),
        },
    ),
    Panel("Degradations", "reqps", {"{{kind}}": _rate("nestvec_degradations_total", "kind")}),
    Panel(
        "Calls of replicas",
        "reqps",
        {"{{kind}}": _rate("nestvec_fanout_calls_total", "kind")},
        "First ones, hedges, retries on another replica, probes of one that failed.",
    ),
    Panel(
        "Full vectors fetched for a rerank",
        "short",
        _quantiles(
            "nestvec_rerank_fetched_vectors", "coarse_dim", "{{coarse_dim}}", shares=(0.5, 0.95)
        ),
    ),
    Panel(
        "Candidates of a rerank",
        "short",
        _quantiles("nestvec_rerank_candidates", "coarse_dim", "{{coarse_dim}}", shares=(0.5, 0.95)),
    ),
    Panel("Shards asked again", "reqps", {"": _rate("nestvec_shards_asked_again_total", "job")}),
    Panel(
        "Live recall",
        "percentunit",
        {
            "{{search_class}} {{coarse_dim}}": _shown(
                "nestvec_live_recall_ratio", "search_class", "coarse_dim", how="min"
            ),
            "{{search_class}} {{coarse_dim}} at least": _shown(
                "nestvec_live_recall_low_ratio", "search_class", "coarse_dim", how="min"
            ),
            "{{search_class}} wanted": _shown("nestvec_live_recall_target_ratio", "search_class"),
        },
        "Of exact search, over the newest sampled answers.",
        1.0,
    ),
    Panel(
        "Recall lost, by cause",
        "percentunit",
        {
            "{{search_class}} {{coarse_dim}} {{cause}}": _shown(
                "nestvec_live_recall_lost_ratio", "search_class", "coarse_dim", "cause"
            )
        },
    ),
    Panel(
        "Measuring recall: CPU",
        "percentunit",
        {"{{pod}}": _rate("nestvec_live_recall_cpu_seconds_total", "pod")},
    ),
    Panel(
        "Documents made searchable, deleted",
        "cps",
        {
            "searchable": _rate("nestvec_ingested_documents_total", "job"),
            "deleted": _rate("nestvec_deleted_documents_total", "job"),
        },
    ),
    Panel(
        "Documents refused",
        "cps",
        {"{{reason}}": _rate("nestvec_refused_documents_total", "reason")},
    ),
    Panel(
        "Partitions compared with the store",
        "cps",
        {"{{reason}}": _rate("nestvec_coarse_log_gaps_total", "reason")},
        "Because a worker found that the log did not continue.",
    ),
    Panel(
        "Spans of traced calls",
        "cps",
        {"{{outcome}}": _rate("nestvec_trace_spans_total", "outcome")},
        "Sent to the collector, or lost since it did not take them.",
    ),
    Panel("Versions", "short", {"{{version}}": "count by (version) (nestvec_build_info{OF})"}),
    Panel(
        "Certificates end in",
        "s",
        {"{{pod}}": "min by (pod) (nestvec_certificate_expires_timestamp_seconds{OF}) - time()"},
    ),
    Panel(
        "Key and certificate files that could not be used",
        "cps",
        {"{{pod}}": _rate("nestvec_credential_failures_total", "pod")},
    ),
)

_CAPACITY = (
    Panel(
        "Searches under way",
        "short",
        {
            "{{search_class}}": _shown("nestvec_queries_under_way", "search_class", how="sum"),
            "{{search_class}} let in up to": _shown(
                "nestvec_queries_room", "search_class", how="sum"
            ),
        },
        "Of all classes together, one more of a class is let in up to its line.",
    ),
    Panel(
        "Searches refused",
        "reqps",
        {"{{search_class}}": _rate("nestvec_queries_refused_total", "search_class")},
    ),
    Panel(
        "Calls that wait",
        "short",
        {"{{queue}}": _shown("nestvec_queue_waiting", "queue", how="sum")},
        "For a thread, or for a model's batch.",
    ),
    Panel(
        "Calls that may wait",
        "short",
        {"{{queue}}": _shown("nestvec_queue_places", "queue", how="sum")},
        "A further one is refused.",
    ),
    Panel(
        "Calls and batches that run",
        "short",
        {"{{queue}}": _shown("nestvec_queue_running", "queue", how="sum")},
    ),
    Panel(
        "Texts or pairs in a batch",
        "short",
        _quantiles("nestvec_batch_items", "model, role", "{{model}} {{role}}", shares=(0.5, 0.95)),
    ),
    Panel(
        "Time of a batch",
        "s",
        _quantiles(
            "nestvec_batch_seconds", "model, role", "{{model}} {{role}}", shares=(0.5, 0.95)
        ),
    ),
    Panel(
        "Searches that share one scan",
        "short",
        _quantiles("nestvec_scan_searches", "pod", "{{pod}}", shares=(0.5, 0.95)),
        "Of those that waited for a thread of a coarse worker. 1 shared none.",
    ),
    Panel(
        "Messages of ingest streams that wait",
        "short",
        {"{{pod}}": _shown("nestvec_ingest_waiting_messages", "pod")},
        "For the store or the shards. A client that sends as fast as it can keeps them full.",
    ),
    Panel(
        "Changes of the log that are not indexed",
        "short",
        {"{{collection}} {{pod}}": _shown("nestvec_coarse_lag_changes", "collection", "pod")},
    ),
    Panel(
        "Documents that a tier finds",
        "short",
        {
            "{{collection}} {{coarse_dim}}": _shown(
                "nestvec_coarse_documents", "collection", "coarse_dim", how="sum"
            )
        },
        "Of all replicas together.",
    ),
    Panel(
        "Bytes of the coarse tiers",
        "bytes",
        {
            "{{collection}} {{coarse_dim}}": _shown(
                "nestvec_coarse_bytes", "collection", "coarse_dim", how="sum"
            ),
            "{{collection}} names": _shown("nestvec_coarse_names_bytes", "collection", how="sum"),
        },
        "Of all replicas together.",
    ),
    Panel(
        "Documents in the store",
        "short",
        {"{{collection}}": _shown("nestvec_store_documents", "collection")},
    ),
    Panel(
        "Bytes in the store",
        "bytes",
        {
            "{{collection}} {{part}}": _shown("nestvec_store_bytes", "collection", "part"),
            "all that its server uses": _shown("nestvec_store_used_bytes", "job"),
        },
        "By a sample, once a minute.",
    ),
    Panel(
        "Memory of GPUs",
        "bytes",
        {
            "{{pod}} {{device}} {{part}}": _shown(
                "nestvec_gpu_memory_bytes", "pod", "device", "part"
            )
        },
        "total and used: of the device. torch and faiss: what this process holds of it.",
    ),
)

_REGIONS = (
    Panel(
        "Calls of other regions",
        "reqps",
        {"{{region}} {{outcome}}": _rate("nestvec_region_calls_total", "region", "outcome")},
    ),
    Panel("Round trip", "s", {"{{region}}": _shown("nestvec_region_round_trip_seconds", "region")}),
    Panel(
        "Reachable",
        "bool",
        {"{{region}}": _shown("nestvec_region_reachable", "region", how="min")},
        most=1.0,
    ),
    Panel("Clocks", "s", {"{{region}}": _shown("nestvec_region_clock_skew_seconds", "region")}),
    Panel(
        "All is here that it had written",
        "s",
        {
            "{{collection}} {{region}}": "time() - "
            + _shown("nestvec_region_whole_timestamp_seconds", "collection", "region")
        },
        "How old that moment is.",
    ),
    Panel(
        "Changes there that are not here",
        "short",
        {"{{collection}} {{region}}": _shown("nestvec_region_lag_changes", "collection", "region")},
    ),
    Panel(
        "Documents that cannot be carried over",
        "short",
        {
            "{{collection}} {{region}}": _shown(
                "nestvec_region_refused_documents", "collection", "region"
            )
        },
    ),
    Panel(
        "Copying waits",
        "bool",
        {"{{collection}} {{region}}": _shown("nestvec_region_waiting", "collection", "region")},
        most=1.0,
    ),
    Panel(
        "Bytes copied",
        "Bps",
        {
            "{{collection}} {{region}}": _rate(
                "nestvec_region_received_bytes_total", "collection", "region"
            )
        },
    ),
)

DASHBOARDS = {
    "nestvec": ("nestvec", _OVERVIEW),
    "nestvec-capacity": ("nestvec: capacity", _CAPACITY),
    "nestvec-regions": ("nestvec: regions", _REGIONS),
}
