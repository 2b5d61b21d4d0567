"""`quorumcache audit`: collect proofs of misbehaviour from the nodes of a cluster, and look for more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quorumcache.cli import exits
from quorumcache.cli.connecting import ClusterOption, KeyOption, bytes_of, cluster_path
from quorumcache.errors import InvalidProof, Misuse

if TYPE_CHECKING:
    from quorumcache.core.config import Configuration, SignedConfiguration
    from quorumcache.net.audit import Findings, Memory

KEYS_MAX = 1000


def audit(
    cluster: ClusterOption = None,
    key_file: KeyOption = None,
    out: Annotated[
        Path | None, typer.Option(help="A directory for the evidence files; made where it is missing.")
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Show nodes what a convicted writer signed, to see which of them promise both of two headers.",
        ),
    ] = False,
    keys: Annotated[
        list[str] | None,
        typer.Option("--signed", help="Have nodes sign what they hold for NAMESPACE/KEY, twice. May be repeated."),
    ] = None,
    memory: Annotated[
        Path | None, typer.Option(help="A file that keeps what nodes signed, to hold them to it the next time.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds to wait for each answer.")] = 5.0,
) -> None:
    """Ask all nodes whom they can convict of misbehaviour, and check what they say.

    Nobody has to be believed: a finding is two signatures that no correct node or writer ever makes, and anyone can
    check its file with quorumcache evidence verify. Exit status 0 where nobody is convicted, 6 where somebody is.

    Example: [bold]quorumcache audit --cluster my-cluster --probe --out evidence[/bold]
    """
    from quorumcache.cli.loops import run_loop
    from quorumcache.net.audit import Auditor
    from quorumcache.wire.evidence import Recollection
    from quorumcache.wire.founding import read_cluster_file
    from quorumcache.wire.keys import read_key_file

    signed = read_cluster_file(cluster_path(cluster))
    configuration = signed.configuration
    slots = [_slot_in(configuration, text) for text in keys or ()]
    if len(slots) > KEYS_MAX:
        raise Misuse(f"at most {KEYS_MAX} keys in one audit, not {len(slots)}")
    recollection = Recollection(configuration)
    remembered: Memory = recollection.load(_read(memory)) if memory is not None and memory.exists() else {}
    auditor = Auditor(
        configuration,
        read_key_file(key_file) if key_file is not None else None,
        timeout_s=timeout,
        memory=remembered,
    )
    findings = run_loop(auditor.run(slots, probe=probe))
    if memory is not None:
        _write(memory, recollection.dump(remembered))
    _print(configuration, findings)
    if out is not None:
        _write_all(out, signed, findings)
    if findings.proofs:
        raise typer.Exit(exits.PEER)
    if len(findings.silent) > configuration.f:
        raise typer.Exit(exits.UNAVAILABLE)


def _slot_in(configuration: Configuration, text: str) -> bytes:
    from quorumcache.core.model import KEY_BYTES_MAX, slot_of

    namespace, slash, key = bytes_of(text).partition(b"/")
    if not slash or configuration.namespace(namespace) is None:
        names = ", ".join(info.name for info in configuration.namespaces)
        raise Misuse(f"{text!r} is no NAMESPACE/KEY of this cluster, which has the namespaces {names}")
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise Misuse(f"a key has 1 to {KEY_BYTES_MAX} bytes, that of {text!r} has {len(key)}")
    return slot_of(namespace, key)


def _read(path: Path) -> bytes:
    from quorumcache.wire.codec import PAYLOAD_BYTES_MAX

    try:
        with path.open("rb") as opened:
            return opened.read(PAYLOAD_BYTES_MAX + 1)
    except OSError as problem:
        raise Misuse(f"{path}: cannot be read: {problem.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as problem:
        raise Misuse(f"{path}: cannot be written: {problem.strerror}") from None


def _write_all(out: Path, signed: SignedConfiguration, findings: Findings) -> None:
    from quorumcache.wire.evidence import check_evidence, make_evidence

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Misuse(f"{out}: cannot be made: {problem.strerror}") from None
    for _, proof in findings.proofs:
        try:
            data = make_evidence(proof, signed)
        except InvalidProof as fault:
            raise Misuse(f"the cluster file makes no evidence: {fault}") from None
        path = out / check_evidence(data).file_name
        _write(path, data)
        typer.echo(f"written: {path}")


def _print(configuration: Configuration, findings: Findings) -> None:
    from rich.console import Console
    from rich.markup import escape

    from quorumcache.wire.evidence import name_of

    console = Console(highlight=False)
    for verdict, _ in findings.proofs:
        name = escape(name_of(configuration, verdict))
        console.print(f"[bold red]{verdict.role} {name}[/bold red] {escape(verdict.offence)}")
        console.print(f"  [dim]{verdict.key.hex()}[/dim]")
    if not findings.proofs:
        console.print("Nobody is convicted of anything.")
    for node in findings.silent:
        console.print(f"[yellow]{escape(configuration.nodes[node].name)}[/yellow] did not answer.")
    for trouble in findings.troubles:
        console.print(f"[yellow]{escape(trouble)}[/yellow]")
