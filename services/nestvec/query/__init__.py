"""The query application: one request through encoder, coarse tier, reranker and merge."""
