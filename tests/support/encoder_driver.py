"""A driver of a test's Ray, as a process of its own: Ray reads its environment once a process.

Reads one JSON list a line, a function of `encoder_deployment` and its arguments, and answers each
with a line: {"result": ...} or {"error": ...}. Ray writes lines of its own between them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from nestvec.core.errors import NestvecError
from nestvec_cluster import ray_cluster
from nestvec_cluster.topology import load_topology


def main(file: str) -> None:
    """file: the topology whose Ray it is."""
    ray_cluster.connect(load_topology(Path(file)))
    from nestvec_cluster import encoder_deployment
    from nestvec_cluster.encoder_scaling import EncoderPlan

    for line in sys.stdin:
        name, *arguments = json.loads(line)
        if name == "deploy_encoder":
            arguments[1] = EncoderPlan(**arguments[1])
        answer: dict[str, Any]
        try:
            result = asyncio.run(getattr(encoder_deployment, name)(*arguments))
            answer = {"result": result}
        except NestvecError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
