"""`nestvec conform`: hold an encoder endpoint against what a Matryoshka encoder must do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray
from rich.console import Console

from nestvec.adapters.models.card import read_card
from nestvec.adapters.models.known import find_known
from nestvec.adapters.opening_models import open_model
from nestvec.config import load_settings
from nestvec.core.space import Prompts, Role, Space
from nestvec.core.tiers import prepare
from nestvec.quality.conformance import Outcome, examine
from nestvec.quality.endpoint import DEFAULT_TOLERANCE, EndpointFailed, Subject
from nestvec_cluster.encoder_endpoints import GrpcEndpoint, OpenAIEndpoint
from nestvec_cluster.findings import print_counts, print_finding

_TIMEOUT_S = 30.0
Reference = Callable[[Sequence[str], Role], NDArray[Any]]


def conform(
    url: Annotated[
        str,
        typer.Argument(help="host:port of nestvec's gRPC, or http://.../v1, OpenAI-compatible."),
    ],
    model: Annotated[
        str, typer.Option(help="The endpoint's name for the model (OpenAI-compatible).")
    ] = "",
    card: Annotated[
        Path | None, typer.Option(help="What the model must be, as a card; else the known table's.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="A trusted copy of the model: a folder, name or package.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds a request.")] = _TIMEOUT_S,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="How far apart two unit vectors of one text may be.")
    ] = DEFAULT_TOLERANCE,
    api_key_env: Annotated[
        str, typer.Option(help="The variable that holds the endpoint's key.")
    ] = "",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the findings to this file.")
    ] = None,
) -> None:
    """Check an encoder endpoint, and exit with 1 when it does something wrong.

    Caught: vectors that are not normalised, or not again after a cut; untrained tiers given
    without a word; mixed dimensions; a recipe left out or in the wrong place; swapped prompts;
    answers that change from call to call, or with the texts beside; wrong counts, NaN, time-outs.
    A check that cannot be decided is skipped, and says what it lacks.
    """
    with ExitStack() as stack:
        subject = _subject(stack, url, model, card, reference, timeout, tolerance, api_key_env)
        findings = []
        console = Console(highlight=False)
        for finding in examine(subject):
            findings.append(finding)
            print_finding(console, finding)
    failed = sum(one.outcome is Outcome.FAILED for one in findings)
    if json_file is not None:
        report = {
            "url": url,
            "conforms": not failed,
            "findings": [asdict(one) for one in findings],
        }
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_counts(console, findings)
    if failed:
        raise typer.Exit(1)


def _subject(
    stack: ExitStack,
    url: str,
    model: str,
    card: Path | None,
    reference: str | None,
    timeout_s: float,
    tolerance: float,
    api_key_env: str,
) -> Subject:
    trusted, copied = _open_reference(reference, stack)
    space = read_card(card).space("") if card is not None else copied
    if url.startswith(("http://", "https://")):
        if not model:
            raise typer.BadParameter("an OpenAI-compatible endpoint needs it", param_hint="--model")
        known = find_known(model)
        if space is None and known is not None:
            space = known.space("")
        prompts = Prompts() if space is None else space.prompts
        endpoint = OpenAIEndpoint(url, model, prompts, timeout_s, api_key_env)
        stack.enter_context(closing(endpoint))
        return Subject(endpoint, space, None, trusted, tolerance)
    ours = GrpcEndpoint(url.removeprefix("grpc://"), timeout_s)
    stack.enter_context(closing(ours))
    announced = None
    with suppress(EndpointFailed):  # the first check says so
        announced = ours.announced()
    return Subject(ours, space or announced, announced, trusted, tolerance)


def _open_reference(name: str | None, stack: ExitStack) -> tuple[Reference | None, Space | None]:
    """How to ask it, and its space. Raises ConfigError when it cannot be loaded."""
    if name is None:
        return None, None
    model = open_model(load_settings(None, {"encoder.model": name}).encoder)
    stack.enter_context(closing(model))
    space = model.space

    def ask(texts: Sequence[str], role: Role) -> NDArray[Any]:
        return prepare(model.embed([space.prompts.apply(text, role) for text in texts]), space)

    return ask, space
