"""nestvec: distributed retrieval for Matryoshka embeddings."""

__version__ = "0.1.0"
