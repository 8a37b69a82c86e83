"""The command line: `nestvec`. Every command imports what it needs when it runs.

Exit codes: 0 done; 1 failed, with one line on stderr; 2 wrong usage; 3 `index` is done but some
rows are not in the collection, or `verify` found what is still to be mended.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

import nestvec
from nestvec_cluster import (
    cli_cluster,
    cli_collections,
    cli_documents,
    cli_migrate,
    cli_reshard,
    cli_upkeep,
)
from nestvec_cluster.cli_credentials import (
    CaOption,
    CertificateOption,
    KeyOption,
    ServerNameOption,
    TlsOption,
    TokenFileOption,
    use_credentials,
)
from nestvec_cluster.cli_group import Commands, LateCommand, fail
from nestvec_cluster.cli_options import Json

_HELP = """Search one Matryoshka encoder's vectors short, and rerank them full.

Begin with [bold]nestvec demo[/bold]. Then [bold]nestvec serve[/bold] in one terminal, and in
another [bold]nestvec index FILE -c docs[/bold] and [bold]nestvec search TEXT -c docs[/bold].
"""


# In their order. Their options stand in modules that import much: loaded when they are called.
_LATE = (
    LateCommand(
        "demo",
        "Index real text and search it in all classes, with figures.",
        "nestvec_cluster.demo:demo",
    ),
    LateCommand(
        "adapt",
        "Give a model tiers that it was never trained for.",
        "nestvec_cluster.cli_adapt:adapt",
    ),
    LateCommand(
        "train",
        "Train a model that serves several dimensions, from pairs of texts.",
        "nestvec_cluster.cli_training:train",
    ),
    LateCommand(
        "size",
        "Say how much memory, disk and how many pods a collection needs.",
        "nestvec_cluster.cli_size:size",
    ),
    LateCommand(
        "bench",
        "Measure latency, recall and memory on your own texts and queries.",
        "nestvec_cluster.bench:bench",
    ),
    LateCommand(
        "eval",
        "Measure a model's tiers on documents that people judged.",
        "nestvec_cluster.evaluate:evaluate",
    ),
    LateCommand(
        "ablate",
        "Measure what each tier loses under each code.",
        "nestvec_cluster.ablate:ablate",
    ),
    LateCommand(
        "calibrate",
        "Learn the cheapest way to reach each recall in a collection.",
        "nestvec_cluster.cli_calibrate:calibrate",
    ),
    LateCommand(
        "recall",
        "Show what a server's answers have lost against exact search.",
        "nestvec_cluster.cli_recall:recall",
    ),
    LateCommand(
        "regions",
        "Show how the regions of a deployment stand to each other.",
        "nestvec_cluster.cli_regions:regions",
    ),
    LateCommand(
        "acl",
        "Print what each role's user of the store must be allowed.",
        "nestvec_cluster.cli_acl:acl",
    ),
    LateCommand(
        "probe",
        "Say whether a model is Matryoshka, and at which dimensions.",
        "nestvec_cluster.probe:probe",
    ),
    LateCommand(
        "gate",
        "Decide whether a model may be released, against a budget.",
        "nestvec_cluster.gate:gate",
    ),
    LateCommand(
        "conform",
        "Hold an encoder endpoint against what a Matryoshka encoder must do.",
        "nestvec_cluster.conform:conform",
    ),
)


class Nestvec(Commands):
    """The commands in the order in which one meets them."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        for command in _LATE:
            self.add_command(command)

    def list_commands(self, ctx: Any) -> list[str]:
        """`demo` first, what measures last."""
        demo, *late = [str(command.name) for command in _LATE]
        known = [name for name in super().list_commands(ctx) if name not in (demo, *late)]
        return [demo, *known, *late]


app = typer.Typer(
    name="nestvec",
    cls=Nestvec,
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Look at settings before they are served.", no_args_is_help=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(nestvec.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[  # noqa: ARG001  its callback does it
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_cert: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """What stands before a command."""
    use_credentials(
        tls=tls,
        ca_file=tls_ca,
        cert_file=tls_cert,
        key_file=tls_key,
        server_name=tls_server_name,
        token_file=token_file,
    )
    # gRPC's own lines on stderr, such as a port in use, would stand beside ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-f", envvar="NESTVEC_CONFIG", help="A nestvec.yaml; without it, the defaults."
    ),
]


@app.command()
def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; loopback by default.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port, 7700 by default; 0 takes a free one.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Keep documents here. Without it they are gone when the server stops."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder, a known model's name, or `default`.")
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(help="debug, info (a line a request; the default), warning or error."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen beyond this machine without TLS, or without asking who calls. For a "
            "network that nobody else is on.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Announce as one line of JSON, and log as JSON.")
    ] = False,
) -> None:
    """Serve the embedded engine: every part of nestvec in this one process.

    What the command line says outranks the file. SIGTERM or Ctrl-C lets the calls in flight finish
    (server.drain_s), then ends it.
    """
    from nestvec.config import load_settings

    overrides: dict[str, Any] = {
        "server.host": host,
        "server.port": port,
        "store.data_dir": None if data_dir is None else str(data_dir),
        "encoder.model": model,
        "server.insecure": insecure or None,
        "log.level": log_level,
        "log.format": "json" if as_json else None,
    }
    settings = load_settings(
        config, {key: value for key, value in overrides.items() if value is not None}
    )
    from nestvec.serving import run
    from nestvec_cluster.embedded import mounted

    kept = settings.store.url is not None or settings.store.data_dir is not None

    def announce(address: str) -> None:
        if as_json:
            from nestvec_cluster.tables import dump_json_line

            facts = {"address": address, "pid": os.getpid(), "version": nestvec.__version__}
            typer.echo(dump_json_line(facts))
            return
        typer.echo(f"nestvec {nestvec.__version__} serves at {address}")
        if not kept:
            typer.echo("documents are gone when it stops; --data-dir FOLDER keeps them")
        typer.echo(f"stop it with Ctrl-C, or: kill {os.getpid()}")

    run(settings, mounted, announce)


@config_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A nestvec.yaml.")],
    as_json: Json = False,
) -> None:
    """Say what is wrong with a file, a line for each thing, or print the settings in effect."""
    import yaml

    from nestvec.config import load_settings
    from nestvec.core.errors import ConfigError
    from nestvec.rpc.securing import check_security
    from nestvec_cluster.tables import dump_json

    try:
        settings = load_settings(file)
        check_security(settings)
    except ConfigError as error:
        if as_json:
            typer.echo(dump_json({"valid": False, "errors": str(error).splitlines()}))
            raise typer.Exit(1) from None
        raise fail(str(error)) from None
    effective = settings.shown()
    if as_json:
        typer.echo(dump_json({"valid": True, "settings": effective}))
    else:
        typer.echo(yaml.safe_dump(effective, sort_keys=False, allow_unicode=True), nl=False)


cli_documents.add_to(app)
cli_collections.add_to(app)
cli_upkeep.add_to(app)
cli_cluster.add_to(app)
cli_reshard.add_to(app)
cli_migrate.add_to(app)
app.add_typer(config_app, name="config")

if __name__ == "__main__":
    app()
