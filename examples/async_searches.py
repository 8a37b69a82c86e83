"""Many searches at once from asyncio, each with its own deadline.

nestvec serve &
python examples/async_searches.py 127.0.0.1:7700
"""

import asyncio
import sys

from nestvec import AsyncNestvecClient, IngestDocument
from nestvec.client import SearchResult
from nestvec.core.errors import BelowCoverage, BudgetSpent

QUESTIONS = ["a stable sort", "parse JSON", "wait without blocking", "read a file"]


async def main(address: str) -> None:
    """Talk to the server at `address`."""
    async with AsyncNestvecClient(address) as client:
        await client.create_collection("async-searches", exist_ok=True)
        texts = [f"{question}: passage {number}" for question in QUESTIONS for number in range(25)]
        documents = (IngestDocument(f"p{n}", text) for n, text in enumerate(texts))
        await client.index("async-searches", documents)

        # One channel carries them all. No gather: a failure cancels what is left, and is raised.
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(client, question)) for question in QUESTIONS]
        for question, task in zip(QUESTIONS, asked, strict=True):
            result = task.result()
            print(question, "->", "too late" if result is None else result.hits[0].text)

        # Several queries in one call are cheaper still.
        results = await client.search_batch("async-searches", QUESTIONS, k=1, ids_only=True)
        print([result.hits[0].id for result in results])
        await client.drop_collection("async-searches")


async def ask(client: AsyncNestvecClient, question: str) -> SearchResult | None:
    """None when the answer did not come in time, or too little of the collection answered."""
    try:
        return await client.search("async-searches", question, k=1, min_coverage=1.0, timeout_s=2.0)
    except (BudgetSpent, BelowCoverage):
        return None


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7700"))
