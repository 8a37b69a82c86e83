"""What is counted and timed. Base units in the names; ids never become labels.

Labels take values from closed sets only: methods, statuses, configured classes, served tiers.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# From a fraction of a millisecond, where the fast lane lives, to the longest deadline.
_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02,
    0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip

RPCS = Counter("nestvec_rpcs_total", "Calls by method and gRPC status.", ["method", "status"])
RPC_SECONDS = Histogram(
    "nestvec_rpc_seconds", "Time in the server by method.", ["method"], buckets=_SECONDS
)
SEARCHES = Counter(
    "nestvec_searches_total",
    "Queries answered, by class, coarse tier, scoring dimension and certificate.",
    ["search_class", "coarse_dim", "scoring_dim", "certificate"],
)
STAGE_SECONDS = Histogram(
    "nestvec_stage_seconds",
    "Time of each stage of a query.",
    ["stage", "coarse_dim"],
    buckets=_SECONDS,
)
CANDIDATES = Histogram(
    "nestvec_rerank_candidates",
    "Candidates that a reranker considered.",
    ["coarse_dim"],
    buckets=(10, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
)
FETCHED = Histogram(
    "nestvec_rerank_fetched_vectors",
    "Full vectors that a reranker fetched.",
    ["coarse_dim"],
    buckets=(10, 20, 30, 40, 50, 75, 100, 200, 500, 1000, 10000),
)
DEGRADATIONS = Counter("nestvec_degradations_total", "What was taken from answers.", ["kind"])
COVERAGE = Histogram(
    "nestvec_coverage_ratio",
    "Share of the documents that answered.",
    ["search_class"],
    buckets=(0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0),
)
INGESTED = Counter("nestvec_ingested_documents_total", "Documents made searchable.")
REFUSED = Counter("nestvec_refused_documents_total", "Documents not taken.", ["reason"])
DELETED = Counter("nestvec_deleted_documents_total", "Documents deleted.")
LOG_GAPS = Counter(
    "nestvec_coarse_log_gaps_total",
    "Partitions compared with the store because the log did not continue, by reason.",
    ["reason"],
)
SHARDS_ASKED_AGAIN = Counter(
    "nestvec_shards_asked_again_total",
    "Shards that might hold more of the best candidates than they were asked for.",
)
FANOUT_CALLS = Counter(
    "nestvec_fanout_calls_total",
    "Calls of replicas: first ones, hedges, retries on another one, probes of one that failed.",
    ["kind"],
)
BUILD = Gauge("nestvec_build_info", "Always 1; the labels tell the version.", ["version"])
