"""Bring vectors that you encoded yourself, as documents and as queries.

The server must serve the model that you encode with: vectors carry the fingerprint of their space,
and another model's are refused. Here `encode` is a stand-in for your model.

    nestvec serve &
    python examples/own_vectors.py 127.0.0.1:7700
"""

import sys

import numpy as np
from numpy.typing import NDArray

from nestvec import IngestDocument, NestvecClient
from nestvec.client import normalise
from nestvec.core.errors import SpaceMismatch


def encode(texts: list[str], dim: int) -> NDArray[np.float32]:
    """Raw model output, (texts, dim). Yours goes here; it must be the collection's model."""
    seeds = [sum(text.encode()) for text in texts]
    rows = [np.random.default_rng(seed).standard_normal(dim) for seed in seeds]
    return np.stack(rows).astype(np.float32)


def main(address: str) -> None:
    """Talk to the server at `address`."""
    texts = [f"passage number {number}" for number in range(50)]
    with NestvecClient(address) as client:
        client.create_collection("own-vectors", exist_ok=True)
        # What the collection's vectors are: dimension, recipe, fingerprint.
        space = client.describe("own-vectors").space

        # The model's recipe (layer-norm where it has one), then unit length.
        vectors = normalise(encode(texts, space.dim), space)
        documents = (
            IngestDocument(f"d{number}", text, vector=vector)
            for number, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        )
        report = client.index("own-vectors", documents)
        print(f"{report.indexed} documents, {space.dim} dimensions each")

        # A query vector is sent in the collection's space, which the client asks for once.
        result = client.search("own-vectors", vectors[7], k=3)
        print("nearest to d7:", [(hit.id, round(hit.score, 3)) for hit in result.hits])

        # Name the space that you encoded with, and another model's vectors can never slip in.
        try:
            client.search("own-vectors", vectors[7], fingerprint="0123456789abcdef")
        except SpaceMismatch as error:
            print("refused:", error)

        stored = client.get("own-vectors", ["d7"], with_vectors=True).documents[0].vector
        assert stored is not None
        print(f"cosine of what was sent and what is stored: {float(stored @ vectors[7]):.5f}")
        client.drop_collection("own-vectors")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7700")
