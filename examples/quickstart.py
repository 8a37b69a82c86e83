"""Make a collection, index a few texts, search them in two classes.

nestvec serve &
python examples/quickstart.py 127.0.0.1:7700
"""

import sys

from nestvec import IngestDocument, NestvecClient

TEXTS = {
    "open": "open(path) returns a file object; iterate over it to read line by line",
    "json": "json.loads parses a string that holds JSON into Python objects",
    "sort": "sorted returns a new list, list.sort sorts in place; both are stable",
    "sleep": "asyncio.sleep suspends the current task and lets others run",
}


def main(address: str) -> None:
    """Talk to the server at `address`."""
    with NestvecClient(address, timeout_s=5.0) as client:
        client.create_collection("quickstart", exist_ok=True)
        documents = (
            IngestDocument(name, text, {"chars": len(text)}) for name, text in TEXTS.items()
        )
        report = client.index("quickstart", documents)
        print(f"{report.indexed} documents can be found")

        # The fast lane: a short tier, no rerank.
        fast = client.search("quickstart", "read a file", search_class="autocomplete", k=2)
        print(f"autocomplete, {fast.scoring.dim} dimensions:", [hit.id for hit in fast.hits])

        # The deep lane: the same query, reranked at full dimension.
        deep = client.search("quickstart", "how do I read a file line by line?", k=2, explain=True)
        for hit in deep.hits:
            print(f"{hit.score:.3f}  {hit.id}  {hit.text}  {dict(hit.fields)}")
        print("certificate:", deep.certificate, "coverage:", deep.coverage.fraction)
        if deep.explanation is not None:
            print(f"{deep.explanation.fetched} full vectors fetched")

        client.drop_collection("quickstart")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7700")
