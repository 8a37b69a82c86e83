"""Embedding models: the project's own static one, sentence-transformers, OpenAI-compatible
endpoints, and a fake that hashes words. All pass tests/contract/test_embedding_models.py.
"""

from nestvec.adapters.models.card import ModelCard
from nestvec.adapters.models.factory import load_model
from nestvec.adapters.models.settings import EndpointSettings, LocalSettings, ModelSettings

__all__ = ["EndpointSettings", "LocalSettings", "ModelCard", "ModelSettings", "load_model"]
