"""Index documents of which some are bad, and go on where a broken stream stopped.

nestvec serve &
python examples/ingest_with_errors.py 127.0.0.1:7700
"""

import itertools
import sys
import time
from collections.abc import Iterator

from nestvec import IngestDocument, NestvecClient
from nestvec.client import IngestInterrupted, IngestProgress, IngestReason, IngestReport

ATTEMPTS = 5


def documents() -> Iterator[IngestDocument]:
    """The same ones in the same order every time: that is what makes resuming possible."""
    for number in range(2000):
        yield IngestDocument(f"d{number}", f"passage {number}" if number % 500 else "   ")


def show(progress: IngestProgress) -> None:
    """Called after every acknowledgement."""
    for failure in progress.failures:
        print(f"offset {failure.offset} ({failure.id}): {failure.reason}: {failure.message}")


def index_all(client: NestvecClient) -> IngestReport:
    """Retry a stream that breaks. Sending a document twice changes nothing."""
    start = 0
    for attempt in range(ATTEMPTS):
        rest = itertools.islice(documents(), start, None)
        try:
            return client.index("errors", rest, first_offset=start, on_progress=show)
        except IngestInterrupted as broken:
            start = broken.resume_at
            print(f"{broken}; trying again")
            time.sleep(0.1 * 2**attempt)
    raise SystemExit(f"gave up after {ATTEMPTS} attempts, at offset {start}")


def main(address: str) -> None:
    """Talk to the server at `address`."""
    with NestvecClient(address) as client:
        client.create_collection("errors", exist_ok=True)
        report = index_all(client)
        print(f"{report.indexed} documents can be found, {report.failed} were refused")
        again = [one for one in report.failures if one.reason is IngestReason.UNAVAILABLE]
        print(f"{len(again)} of them may be sent again")
        client.drop_collection("errors")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7700")
