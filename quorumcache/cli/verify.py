"""`quorumcache verify`: check a portable proof, offline, and say in words what it proves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN_BYTES_MAX = 200
PROOF_BYTES_MAX = 12 << 20


def verify(
    file: Annotated[Path, typer.Argument(help="A proof, as made by get --proof.", show_default=False)],
    cluster: Annotated[
        Path | None,
        typer.Option(help="A cluster file whose administrators you trust: the proof must be of their cluster."),
    ] = None,
    value: Annotated[bool, typer.Option("--value", help="Print the proven value alone, as it is.")] = False,
) -> None:
    """Check a proof that a value was written, without asking any node.

    A proof shows who wrote the value, when, and that a quorum of nodes let it: it can be handed to anybody. It does not
    show that nothing newer was written since.

    Example: [bold]quorumcache get hello --proof hello.proof && quorumcache verify hello.proof[/bold]
    """
    from quorumcache.errors import InvalidProof, Misuse
    from quorumcache.wire.evidence import FORMAT as EVIDENCE_FORMAT
    from quorumcache.wire.founding import read_cluster_file
    from quorumcache.wire.proof import FORMAT_BYTES_MAX, check_proof

    trusted = read_cluster_file(cluster).configuration.admins if cluster is not None else None
    try:
        with file.open("rb") as opened:
            data = opened.read(PROOF_BYTES_MAX + 1)
    except OSError as problem:
        raise Misuse(f"{file}: cannot be read: {problem.strerror}") from None
    try:
        proven = check_proof(data, trusted_admins=trusted)
    except InvalidProof as fault:
        if EVIDENCE_FORMAT.encode() in data[:FORMAT_BYTES_MAX]:
            raise InvalidProof(f"{file}: is evidence, and proves no value: quorumcache evidence verify") from None
        raise InvalidProof(f"{file}: {fault}") from None
    if value:
        typer.get_binary_stream("stdout").write(_bare(proven.value or b""))
        return
    _explain(proven)


def _bare(value: bytes) -> bytes:
    """The value without what a client may have put beside it: how long it took to make, and until when it is fresh."""
    from quorumcache.client.envelope import parse

    return parse(value).data or b""


def _explain(proven: object) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from quorumcache.cli.words import as_text, time_text
    from quorumcache.wire.proof import ProvenWrite

    assert isinstance(proven, ProvenWrite)
    configuration = proven.configuration
    console = Console(highlight=False)
    console.print("[bold green]Valid.[/bold green] The signatures, hashes and rights in this proof are all in order.\n")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("cluster", f"{escape(configuration.cluster_id)}, epoch {configuration.epoch}")
    table.add_row("key", f"{escape(as_text(proven.key))} in namespace {escape(proven.namespace)}")
    if proven.field:
        table.add_row("field", escape(as_text(proven.field)))
    if proven.value is None:
        table.add_row("value", "deleted")
    else:
        value = _bare(proven.value)
        table.add_row("value", f"{escape(as_text(value, SHOWN_BYTES_MAX))}  [dim]{len(value)} bytes[/dim]")
    status = "" if proven.writer_status == "active" else f" [yellow]({proven.writer_status} in this epoch)[/yellow]"
    table.add_row("written by", f"{escape(proven.writer)}{status}  [dim]{proven.writer_key.hex()}[/dim]")
    table.add_row("written at", time_text(proven.written_us))
    if proven.expires_at_us:
        table.add_row("expires at", time_text(proven.expires_at_us))
    table.add_row(
        "granted by",
        f"{', '.join(map(escape, proven.granted_by))}: {len(proven.granted_by)} of {configuration.n} nodes, "
        f"{configuration.q} are needed",
    )
    if proven.batch_count > 1:
        table.add_row("batch", f"written together with {proven.batch_count - 1} others")
    for admin in proven.admins:
        table.add_row("administrator", f"[dim]{admin.hex()}[/dim]")
    console.print(table)
    console.print()
    if proven.admins_trusted:
        console.print("The configuration is signed by the administrators of the cluster file that you named.")
    else:
        console.print(
            "[yellow]Whether the administrators above are the right ones is for you to judge:[/yellow] compare their "
            "keys, or name a cluster file that you trust with --cluster."
        )
    console.print("[dim]It does not show that nothing newer was written since.[/dim]")
