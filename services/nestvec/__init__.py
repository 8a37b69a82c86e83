"""nestvec: distributed retrieval for Matryoshka embeddings.

The SDK is at hand here (`from nestvec import NestvecClient`) and loaded at its first use; what type
checkers see of it stands in __init__.pyi.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["AsyncNestvecClient", "IngestDocument", "NestvecClient", "__version__"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # By name, so that the floors below, which all read __version__, do not stand on the client.
    value: object = getattr(importlib.import_module("nestvec.client"), name)
    globals()[name] = value
    return value
