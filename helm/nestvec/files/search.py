"""helm test: write, search and drop a collection of its own, through the query service."""

from __future__ import annotations

import sys
from pathlib import Path

from nestvec import IngestDocument, NestvecClient
from nestvec.client import Credentials

TEXTS = {
    "bread": "Bread rises because yeast makes gas in the dough.",
    "sea": "A sextant measures the angle between a star and the horizon at sea.",
    "law": "The court heard the appeal and upheld the sentence.",
}
COLLECTION = "helm-test"


def credentials(folder: Path) -> Credentials | None:
    """From the files of a Secret; None where there is none."""
    files = {
        "ca_file": folder / "ca.crt",
        "cert_file": folder / "tls.crt",
        "key_file": folder / "tls.key",
        "token_file": folder / "token",
    }
    there = {name: path for name, path in files.items() if path.exists()}
    return Credentials(**there) if there else None


def main(address: str, folder: Path) -> str:
    """What to print. Raises NestvecError, or SystemExit where another document is found."""
    with NestvecClient(address, timeout_s=60.0, credentials=credentials(folder)) as client:
        client.create_collection(COLLECTION, exist_ok=True)
        try:
            client.index(COLLECTION, [IngestDocument(*one) for one in TEXTS.items()])
            result = client.search(COLLECTION, "navigation on a ship", k=1)
        finally:
            client.drop_collection(COLLECTION)
    found = [hit.id for hit in result.hits]
    if found != ["sea"] or result.coverage.fraction < 1.0:
        raise SystemExit(f"found {found} with coverage {result.coverage.fraction:.3f}")
    return f"found {found[0]}, {result.coarse.dim} -> {result.scoring.dim}, {result.certificate}"


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2])))
