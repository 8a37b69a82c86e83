"""The rerank application: full-dimension order for the candidates of a coarse search."""
