"""What is counted and timed. Base units in the names; ids never become labels.

Labels take values from closed sets only: methods, statuses, configured classes, served tiers, and
names of collections that are there, of which a gauge tells as many as scraped.MOST_SERIES. Nothing
that a caller sends becomes a label unchecked.
"""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import Counter, Gauge, Histogram

from nestvec.telemetry.gpu import Torch
from nestvec.telemetry.scraped import ScrapedGauge

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
# Stands where a caller names a class that is not configured.
UNKNOWN_CLASS = "(unknown)"
SEARCH_SECONDS = Histogram(
    "nestvec_search_seconds",
    "Time in this process of searches, batches as one, by class and gRPC status.",
    ["search_class", "status"],
    buckets=_SECONDS,
)
STAGE_SECONDS = Histogram(
    "nestvec_stage_seconds",
    "Time of each stage of a query.",
    ["stage", "search_class", "coarse_dim"],
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
QUERIES_UNDER_WAY = ScrapedGauge(
    "nestvec_queries_under_way", "Searches let in and not answered yet.", ["search_class"]
)
QUERIES_ROOM = ScrapedGauge(
    "nestvec_queries_room",
    "Searches of all classes that may be under way for one more of this class to be let in.",
    ["search_class"],
)
QUERIES_REFUSED = Counter(
    "nestvec_queries_refused_total", "Searches not let in: too many under way.", ["search_class"]
)
# Of threads that work off the event loop, and of models, each by what is asked of it.
QUEUE_WAITING = ScrapedGauge("nestvec_queue_waiting", "Calls that wait for their turn.", ["queue"])
QUEUE_PLACES = ScrapedGauge(
    "nestvec_queue_places", "Calls that may wait; a further one is refused.", ["queue"]
)
QUEUE_RUNNING = ScrapedGauge(
    "nestvec_queue_running", "Calls in a thread; of a model, batches.", ["queue"]
)
BATCH_ITEMS = Histogram(
    "nestvec_batch_items",
    "Texts, or pairs of a cross-encoder, that a model was given at once.",
    ["model", "role"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
BATCH_SECONDS = Histogram(
    "nestvec_batch_seconds", "Time of a model's batch.", ["model", "role"], buckets=_SECONDS
)
SCAN_SEARCHES = Histogram(
    "nestvec_scan_searches",
    "Searches that waited for a thread of a coarse worker and then shared one scan; 1 shared none.",
    buckets=(1, 2, 4, 8, 16),
)
INGEST_WAITING = ScrapedGauge(
    "nestvec_ingest_waiting_messages",
    "Messages of ingest streams that were read and wait to be written, or for the shards.",
)
INGESTED = Counter("nestvec_ingested_documents_total", "Documents made searchable.")
REFUSED = Counter("nestvec_refused_documents_total", "Documents not taken.", ["reason"])
DELETED = Counter("nestvec_deleted_documents_total", "Documents deleted.")
LOG_GAPS = Counter(
    "nestvec_coarse_log_gaps_total",
    "Partitions compared with the store because the log did not continue, by reason.",
    ["reason"],
)
# Of what this process holds; both generations of a collection that moves to another model.
COARSE_DOCUMENTS = ScrapedGauge(
    "nestvec_coarse_documents", "Documents that a tier finds.", ["collection", "coarse_dim"]
)
COARSE_BYTES = ScrapedGauge(
    "nestvec_coarse_bytes", "Of a tier's index and columns.", ["collection", "coarse_dim"]
)
COARSE_NAMES_BYTES = ScrapedGauge(
    "nestvec_coarse_names_bytes", "Of external ids, for all tiers.", ["collection"]
)
COARSE_LAG = ScrapedGauge(
    "nestvec_coarse_lag_changes",
    "Changes in the store's log that are not indexed here yet.",
    ["collection"],
)
# As the store's server counts them, from a sample, once a minute; told by the processes that write.
STORE_DOCUMENTS = ScrapedGauge("nestvec_store_documents", "Documents in the store.", ["collection"])
STORE_BYTES = ScrapedGauge(
    "nestvec_store_bytes",
    "Of vectors (with ids and log) and payloads in the store.",
    ["collection", "part"],
)
STORE_USED = ScrapedGauge(
    "nestvec_store_used_bytes", "Memory that the store's server uses for everything."
)
GPU_MEMORY = ScrapedGauge(
    "nestvec_gpu_memory_bytes",
    "Of GPUs this process computes on: total and used of the device; held by torch and FAISS here.",
    ["device", "part"],
)
_TORCH = Torch()
GPU_MEMORY.watch(_TORCH, Torch.readings)
SHARDS_ASKED_AGAIN = Counter(
    "nestvec_shards_asked_again_total",
    "Shards that might hold more of the best candidates than they were asked for.",
)
FANOUT_CALLS = Counter(
    "nestvec_fanout_calls_total",
    "Calls of replicas: first ones, hedges, retries on another one, probes of one that failed.",
    ["kind"],
)
# Of other regions, by their names in the map.
REGION_CALLS = Counter(
    "nestvec_region_calls_total",
    "Calls of other regions: answered, refused, late, failed, or skipped where none was worth "
    "making.",
    ["region", "outcome"],
)
REGION_ROUND_TRIP = Gauge(
    "nestvec_region_round_trip_seconds", "Of the way to another region and back.", ["region"]
)
REGION_CLOCK_SKEW = Gauge(
    "nestvec_region_clock_skew_seconds", "Its clock less this one's.", ["region"]
)
REGION_REACHABLE = Gauge(
    "nestvec_region_reachable", "1 where it said who it is when it was asked last.", ["region"]
)
# Live recall: of this process's own answers, over all collections; see quality/live.py. Means over
# the newest sampled queries, 0 to 1, with a 95 % interval.
_RECALL_LABELS = ["search_class", "coarse_dim"]
LIVE_RECALL_CAUSES = (
    "truncation", "quantisation", "ann", "missing_shards", "deadline", "damage", "bound",
    "unexplained",
)  # fmt: skip
LIVE_RECALL = Gauge("nestvec_live_recall_ratio", "Recall of exact search.", _RECALL_LABELS)
LIVE_RECALL_LOW = Gauge(
    "nestvec_live_recall_low_ratio", "Lower end of its confidence interval.", _RECALL_LABELS
)
LIVE_RECALL_HIGH = Gauge(
    "nestvec_live_recall_high_ratio", "Upper end of its confidence interval.", _RECALL_LABELS
)
LIVE_RECALL_LOST = Gauge(
    "nestvec_live_recall_lost_ratio",
    "The part of recall that one cause took.",
    [*_RECALL_LABELS, "cause"],
)
LIVE_RECALL_LOST_LOW = Gauge(
    "nestvec_live_recall_lost_low_ratio",
    "Lower end of that part's confidence interval.",
    [*_RECALL_LABELS, "cause"],
)
LIVE_RECALL_TARGET = Gauge(
    "nestvec_live_recall_target_ratio", "The recall that the settings want.", ["search_class"]
)
LIVE_RECALL_MEASURED_AT = Gauge(
    "nestvec_live_recall_measured_timestamp_seconds",
    "When the newest of its queries was measured, since 1970.",
    _RECALL_LABELS,
)
LIVE_RECALL_QUERIES = Counter(
    "nestvec_live_recall_queries_total", "Sampled queries that were measured.", _RECALL_LABELS
)
LIVE_RECALL_WANTED = Counter(
    "nestvec_live_recall_wanted_documents_total",
    "Documents that exact search found for them.",
    _RECALL_LABELS,
)
LIVE_RECALL_MISSED = Counter(
    "nestvec_live_recall_missed_documents_total",
    "Of these, documents that the answers missed, by cause.",
    [*_RECALL_LABELS, "cause"],
)
LIVE_RECALL_PASSED_OVER = Counter(
    "nestvec_live_recall_passed_over_total",
    "Sampled queries that could not be measured.",
    ["reason"],
)
LIVE_RECALL_CPU = Counter("nestvec_live_recall_cpu_seconds_total", "CPU time that measuring took.")
# Of what is copied from other regions, told by the process that copies it; see replication/way.py.
_REGION_LABELS = ["collection", "region"]
REGION_LAG = Gauge(
    "nestvec_region_lag_changes", "Changes in another region that are not here.", _REGION_LABELS
)
REGION_WHOLE_AT = Gauge(
    "nestvec_region_whole_timestamp_seconds",
    "All that another region had written by then is here; since 1970.",
    _REGION_LABELS,
)
REGION_REFUSED = Gauge(
    "nestvec_region_refused_documents",
    "Documents of another region that cannot be carried over.",
    _REGION_LABELS,
)
REGION_WAITING = Gauge(
    "nestvec_region_waiting", "1 while copying from another region waits.", _REGION_LABELS
)
REGION_BYTES = Counter(
    "nestvec_region_received_bytes_total",
    "Bytes of documents that came from another region.",
    _REGION_LABELS,
)
CREDENTIAL_FAILURES = Counter(
    "nestvec_credential_failures_total",
    "Changed key, certificate and token files that could not be used; what stood before goes on.",
)
CERTIFICATE_EXPIRES = Gauge(
    "nestvec_certificate_expires_timestamp_seconds",
    "When this process's certificate ends, since 1970.",
)
TRACE_SPANS = Counter(
    "nestvec_trace_spans_total",
    "Spans of sampled calls: sent to the collector, or lost since it did not take them in time.",
    ["outcome"],
)
BUILD = Gauge("nestvec_build_info", "Always 1; the labels tell the version.", ["version"])


def forget_region(collection: str, region: str) -> None:
    """Another process tells of it from now on, or nobody does."""
    for one in (REGION_LAG, REGION_WHOLE_AT, REGION_REFUSED, REGION_WAITING):
        with suppress(KeyError):
            one.remove(collection, region)
