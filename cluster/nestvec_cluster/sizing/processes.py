"""What processes take before they hold anything, and front ends with their caches.

These are the only figures here that were measured and not derived: resident memory, less what they
hold, of processes that have indexed and searched, which brings code of libraries, threads and their
heaps into memory (means of the clusters of benchmarks/size.py; CPython 3.11, glibc, faiss-cpu 1.15,
grpcio 1.85). That of a worker varies by 20 MiB either way: glibc keeps the ends of threads' heaps.
"""

from __future__ import annotations

from nestvec_cluster.sizing.plan import MIB, Documents, Plan

# Without a model.
WORKER_BYTES = 134 * MIB
FRONT_END_BYTES = 113 * MIB
WRITER_BYTES = 136 * MIB
# The default model, static and of 47 MB.
DEFAULT_MODEL_BYTES = 36 * MIB
# While it works: messages, and what calls under way hold.
_CALLS = 64 * MIB
# Of each document that is kept for hits, beside its payload (query/documents.py).
BESIDE_PAYLOAD = 600
# What FAISS takes for itself on a GPU (StandardGpuResources, "temporary memory").
GPU_SCRATCH_BYTES = 1536 * MIB


def payloads_kept(plan: Plan) -> float:
    """Bytes of a front end's cache of documents once it has seen all that it can keep."""
    counted = plan.documents.payload_bytes + BESIDE_PAYLOAD
    return min(plan.documents.count, plan.payload_cache / counted) * kept_bytes(plan.documents)


def kept_bytes(documents: Documents) -> float:
    """What a document takes in that cache: the cache counts bytes of UTF-8."""
    return documents.width * documents.payload_bytes + BESIDE_PAYLOAD


def front_end_bytes(plan: Plan) -> float:
    """A process of `query` with its model and full caches."""
    return FRONT_END_BYTES + plan.model_bytes + payloads_kept(plan) + plan.query_cache


def writer_bytes(plan: Plan) -> float:
    """A process of `ingest`: it keeps nothing of what it has written."""
    return WRITER_BYTES + plan.model_bytes


def with_calls(settled: float) -> float:
    """A limit for either."""
    return settled + _CALLS
