"""Three regions with TLS between them, one of which wears another one's certificate."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nestvec.client import Credentials, IngestDocument, NestvecClient, RegionState
from nestvec_cluster.region_room import RegionSpec, running_regions
from tests.support.certificates import Authority
from tests.support.long_runs import takes_long

NAMES = ("eu", "us", "ap")
KNOWN_WITHIN_S = 60.0


def secured(authority: Authority, name: str, wears: str) -> dict[str, Any]:
    certificate, key = authority.sign(
        f"{name}-server", "IP:127.0.0.1", f"DNS:{wears}.regions.nestvec"
    )
    return {
        "security": {
            "tls": {
                "cert_file": str(certificate),
                "key_file": str(key),
                "ca_file": str(authority.file),
                "client_ca_file": str(authority.file),
            },
            "grants": [
                {
                    "certificates": ["client"],
                    "verbs": ["search", "ingest", "admin"],
                    "collections": ["*"],
                }
            ],
        }
    }


@takes_long
def test_a_region_with_anothers_certificate_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("client", "DNS:client")
    credentials = Credentials(ca_file=authority.file, cert_file=certificate, key_file=key)
    shared = {"docs": {"mode": "partitioned"}}
    worn = {"eu": "eu", "us": "us", "ap": "eu"}
    specs = [
        RegionSpec(
            name,
            dict.fromkeys(NAMES[number + 1 :], 0.01),
            secured(authority, name, worn[name]),
            shared,
        )
        for number, name in enumerate(NAMES)
    ]
    with running_regions(specs) as regions, ExitStack() as stack:
        clients = {
            name: stack.enter_context(NestvecClient(one.address, credentials=credentials))
            for name, one in regions.items()
        }
        for name, client in clients.items():
            client.create_collection("docs")
            client.index("docs", [IngestDocument(f"{name}-1", f"a cat in {name}")])
        deadline_s = time.monotonic() + KNOWN_WITHIN_S
        while True:
            found = clients["eu"].search("docs", "cat", regions="all", min_coverage=0.0)
            states = {one.name: one.state for one in found.regions}
            if states["us"] is RegionState.ANSWERED or time.monotonic() > deadline_s:
                break
            time.sleep(0.2)
        assert states == {
            "eu": RegionState.ANSWERED,
            "us": RegionState.ANSWERED,
            "ap": RegionState.MISSING,
        }
        assert {hit.id for hit in found.hits} == {"eu-1", "us-1"}
        told = {one.name: one.said for one in clients["eu"].regions()}
        assert "Hostname Verification" in told["ap"]
        # It cannot ask in its own name either: its certificate is of another one.
        alone = clients["ap"].search("docs", "cat", regions="all", min_coverage=0.0)
        assert {hit.id for hit in alone.hits} == {"ap-1"}
