"""`quorumcache evidence`: check an evidence file, offline, and say in words whom it convicts and why."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quorumcache.wire.evidence import Conviction


class Action(StrEnum):
    """What to do with the file."""

    show = "show"
    verify = "verify"


def evidence(
    action: Annotated[Action, typer.Argument(help="verify: check it. show: check it, and explain it.")],
    file: Annotated[Path, typer.Argument(help="An evidence file, as made by audit --out.")],
    cluster: Annotated[
        Path | None,
        typer.Option(help="A cluster file whose administrators you trust: the file must be of their cluster."),
    ] = None,
) -> None:
    """Check a proof that a writer or a node misbehaved, without asking any node.

    It can be handed to anybody: the file has the signed configuration and the two signatures that contradict each
    other. Exit status 0 where it convicts somebody, 7 where it does not.

    Example: [bold]quorumcache evidence show evidence/node-n2-doublegrant-1f2e3d4c.evidence[/bold]
    """
    from quorumcache.errors import InvalidProof, Misuse
    from quorumcache.wire.evidence import EVIDENCE_BYTES_MAX, check_evidence
    from quorumcache.wire.founding import read_cluster_file
    from quorumcache.wire.proof import FORMAT as PROOF_FORMAT
    from quorumcache.wire.proof import FORMAT_BYTES_MAX

    trusted = read_cluster_file(cluster).configuration.admins if cluster is not None else None
    try:
        with file.open("rb") as opened:
            data = opened.read(EVIDENCE_BYTES_MAX + 1)
    except OSError as problem:
        raise Misuse(f"{file}: cannot be read: {problem.strerror}") from None
    try:
        conviction = check_evidence(data, trusted_admins=trusted)
    except InvalidProof as fault:
        if PROOF_FORMAT.encode() in data[:FORMAT_BYTES_MAX]:
            raise InvalidProof(f"{file}: proves a value, and convicts nobody: quorumcache verify checks it") from None
        raise InvalidProof(f"{file}: {fault}") from None
    if action is Action.verify:
        typer.echo(f"{conviction.role} {conviction.name} ({conviction.key.hex()}) {conviction.offence}")
    else:
        _explain(conviction)


def _explain(conviction: Conviction) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from quorumcache.cli.words import as_text, time_text
    from quorumcache.core.model import stamp_parts
    from quorumcache.wire.evidence import is_retraction, signed_headers

    console = Console(highlight=False)
    name = f"{conviction.role} {escape(conviction.name)}"
    console.print(f"[bold red]{name}[/bold red] {escape(conviction.offence)}.\n")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("cluster", f"{escape(conviction.configuration.cluster_id)}, epoch {conviction.configuration.epoch}")
    table.add_row("its key", conviction.key.hex())
    table.add_row("in", f"{escape(as_text(conviction.slot_key))} of namespace {escape(conviction.namespace)}")
    if conviction.field:
        table.add_row("field", escape(as_text(conviction.field)))
    if conviction.stamp:
        time_us, _, nonce = stamp_parts(conviction.stamp)
        table.add_row("under stamp", f"{time_text(time_us)}, nonce {nonce:016x}")
    words = ("signed first", "then") if is_retraction(conviction.proof) else ("signed one", "and another")
    for word, header in zip(words, signed_headers(conviction.proof), strict=True):
        table.add_row(word, _header_text(header))
    for admin in conviction.admins:
        table.add_row("administrator", f"[dim]{admin.hex()}[/dim]")
    console.print(table)
    console.print(
        "\nNo correct writer or node signs two such things, whatever happens to it or is sent to it (docs/protocol.md, "
        "section 16). So whoever has this key lies, or the key is in more hands than one"
        + ("." if conviction.role == "writer" else ", or the node's clock ran backwards across a start.")
    )
    if conviction.admins_trusted:
        console.print("The configuration is signed by the administrators of the cluster file that you named.")
    else:
        console.print(
            "[yellow]Whether the administrators above are the right ones is for you to judge:[/yellow] compare their "
            "keys, or name a cluster file that you trust with --cluster."
        )


def _header_text(raw: bytes) -> str:
    from quorumcache.cli.words import time_text
    from quorumcache.core.model import DELETE, parse_header

    if not raw:
        return "that nothing is there"
    header = parse_header(raw)
    what = "a deletion" if header.kind == DELETE else f"a value of {header.size} bytes"
    return f"{what} of {time_text(header.time_us)}, digest {header.digest.hex()[:32]}"
