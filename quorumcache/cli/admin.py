"""`quorumcache admin`: drafts of a cluster's next configuration, and its administrators' signatures. All offline.

Belongs here: the changes as commands, the plan in words, who has signed. What may follow what is the core's; how a
draft is put to use is in apply.py.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from quorumcache.cli.apply import apply
from quorumcache.cli.connecting import ClusterOption, cluster_path

if TYPE_CHECKING:
    from rich.console import Console

    from quorumcache.core.config import Configuration, SignedConfiguration

admin = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=(
        "Change a cluster's configuration: who may write, which nodes there are, quotas.\n\n"
        "Each change is drafted as the next epoch in a file (next.toml beside cluster.toml), which goes from one "
        "administrator to the next until enough of them signed it, and names the configuration that it follows. A step "
        "can be repeated: it says what is done already. Nothing is sent to nodes before quorumcache admin apply, which "
        "brings a running cluster to the draft.\n\n"
        "Example: [bold]quorumcache admin revoke-writer bob --cluster my-cluster[/bold], then "
        "[bold]quorumcache admin sign --cluster my-cluster --key my-cluster/keys/admin.key[/bold], then "
        "[bold]quorumcache admin apply --cluster my-cluster[/bold]"
    ),
)
admin.command("apply")(apply)

OutOption: TypeAlias = Annotated[
    Path | None, typer.Option("--out", "-o", help="The draft's file; next.toml beside cluster.toml unless given.")
]
KeyArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="PUBLIC_KEY", help="64 hex digits, as quorumcache keygen prints them.")
]
WriterArgument: TypeAlias = Annotated[str, typer.Argument(metavar="WRITER", help="The writer's name.")]
NodeArgument: TypeAlias = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]


@admin.command("show")
def show(
    draft: Annotated[
        Path | None, typer.Argument(help="A draft to compare with it; next.toml beside it, where there is one.")
    ] = None,
    cluster: ClusterOption = None,
) -> None:
    """Show the configuration, and of a draft what it changes and whose signatures are missing.

    Example: [bold]quorumcache admin show next.toml --cluster my-cluster[/bold]
    """
    from rich.markup import escape
    from rich.table import Table

    from quorumcache.cli.words import bytes_text
    from quorumcache.wire.signing import read_draft

    file, config = _current(cluster)
    console = console_of()
    console.print(
        f"Cluster [bold]{escape(config.cluster_id)}[/bold], epoch {config.epoch}, digest {config.digest.hex()}\n"
        f"f = {config.f}, {config.shards} shards; {config.admins_needed} of {len(config.admins)} administrators sign\n"
    )
    table = Table("what", "name", "key", "", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for admin_key in config.admins:
        table.add_row("administrator", "", admin_key.hex(), "")
    for node in config.nodes:
        table.add_row("node", node.name, node.key.hex(), " ".join(x for x in (escape(node.address), node.zone) if x))
    for writer in config.writers:
        table.add_row("writer", writer.name, writer.key.hex(), writer.status)
    for space in config.namespaces:
        quota = f", quota {bytes_text(space.quota_bytes)}" if space.quota_bytes else ""
        mode = f", mode {space.mode}, ack {space.ack}" if space.mode == "primary" else f", mode {space.mode}"
        table.add_row("namespace", space.name, "", f"{space.type}{mode}{quota}")
    console.print(table)
    found = file.with_name("next.toml") if draft is None else draft
    if draft is not None or found.exists():
        console.print()
        _plan(read_draft(found), config, found)


@admin.command("sign")
def sign(
    key: Annotated[Path, typer.Option("--key", "-k", help="An administrator's key file.", show_default=False)],
    draft: Annotated[Path | None, typer.Argument(help="The draft; next.toml beside cluster.toml unless given.")] = None,
    cluster: ClusterOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    stopped: Annotated[
        bool,
        typer.Option("--stopped", help="Also what admin apply refuses: for nodes that are all stopped before."),
    ] = False,
) -> None:
    """Show what a draft changes, and add an administrator's signature to it.

    A key signs one successor of a configuration and never another: that is noted in a directory beside the key file,
    named after it with .signed, before the signature is made. Move the two together, and never use a copy of the key
    without it: two drafts with enough signatures each would split the cluster. So a draft to which a running cluster
    cannot go over is signed with --stopped alone.

    Example: [bold]quorumcache admin sign next.toml --cluster my-cluster --key admin.key[/bold]
    """
    from rich.markup import escape

    from quorumcache.core.seals import check_movable
    from quorumcache.errors import ConfigurationError, Misuse
    from quorumcache.wire.keys import read_key_file
    from quorumcache.wire.signing import read_draft, sign_successor, write_draft

    file, config = _current(cluster)
    found = file.with_name("next.toml") if draft is None else draft
    unsigned = read_draft(found)
    _plan(unsigned, config, found)
    if not stopped:
        try:
            check_movable(unsigned.configuration, config)
        except ConfigurationError as problem:
            raise ConfigurationError(
                f"{problem}. Nothing was signed, for a key that signed this signs nothing else for epoch "
                f"{unsigned.configuration.epoch}. To go there by stopping all nodes: --stopped"
            ) from None
    secret = read_key_file(key, role="admin")
    if not yes and not typer.confirm("Sign it?"):
        raise Misuse("nothing was signed")
    signed = sign_successor(unsigned, config, secret, key.with_name(key.name + ".signed"))
    write_draft(found, signed)
    console_of().print(f"\nSigned by {secret.public.hex()[:16]}: {escape(str(found))}")
    _signatures(signed, config)


@admin.command("add-writer")
def add_writer(
    writer: WriterArgument,
    key: KeyArgument,
    namespaces: Annotated[str, typer.Option(help="Namespaces whose lists it is put on, with commas between.")] = "",
    out: OutOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Draft a new writer. It may write wherever every writer may, and in --namespaces.

    Example: [bold]quorumcache admin add-writer carol $(quorumcache keygen carol.key)[/bold]
    """
    from quorumcache.core import amend

    names = [name.strip() for name in namespaces.split(",") if name.strip()]
    file, config = _current(cluster)
    _draft(file, config, amend.add_writer(config, writer, _public(key), namespaces=names), out)


@admin.command("retire-writer")
def retire_writer(writer: WriterArgument, out: OutOption = None, cluster: ClusterOption = None) -> None:
    """Draft that a writer may write no more, while what it wrote stands.

    Example: [bold]quorumcache admin retire-writer bob[/bold]
    """
    from quorumcache.core import amend

    file, config = _current(cluster)
    _draft(file, config, amend.retire_writer(config, writer), out)


@admin.command("revoke-writer")
def revoke_writer(writer: WriterArgument, out: OutOption = None, cluster: ClusterOption = None) -> None:
    """Draft that a writer may write no more and what it wrote is dropped: for keys that leaked. It cannot be undone.

    Example: [bold]quorumcache admin revoke-writer bob[/bold]
    """
    from quorumcache.core import amend

    file, config = _current(cluster)
    _draft(file, config, amend.revoke_writer(config, writer), out)


@admin.command("rotate-key")
def rotate_key(writer: WriterArgument, key: KeyArgument, out: OutOption = None, cluster: ClusterOption = None) -> None:
    """Draft another key for a writer. The old one is retired: what it wrote stands. Revoke keys that leaked instead.

    Example: [bold]quorumcache admin rotate-key bob $(quorumcache keygen bob-2.key)[/bold]
    """
    from quorumcache.core import amend

    file, config = _current(cluster)
    _draft(file, config, amend.rotate_key(config, writer, _public(key)), out)


@admin.command("set-quota")
def set_quota(
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    quota_bytes: Annotated[int, typer.Argument(metavar="BYTES", min=0, help="Of each node's memory; 0 is no quota.")],
    out: OutOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Draft another quota for a namespace.

    Example: [bold]quorumcache admin set-quota default 67108864[/bold]
    """
    from quorumcache.core import amend

    file, config = _current(cluster)
    _draft(file, config, amend.set_quota(config, namespace, quota_bytes), out)


@admin.command("add-node")
def add_node(
    node: NodeArgument,
    key: KeyArgument,
    address: Annotated[str, typer.Option(help="host:port.", show_default=False)],
    zone: Annotated[str, typer.Option(help="Its zone.")] = "",
    weight: Annotated[int, typer.Option(help="Its share of the shards, beside the others' weights.")] = 1,
    out: OutOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Draft one more node.

    Example: [bold]quorumcache admin add-node n4 $(quorumcache keygen n4.key --role node) --address host:7415[/bold]
    """
    from quorumcache.core import amend

    file, config = _current(cluster)
    after = amend.add_node(config, node, _public(key), address=address, zone=zone, weight=weight)
    _draft(file, config, after, out)


@admin.command("remove-node")
def remove_node(node: NodeArgument, out: OutOption = None, cluster: ClusterOption = None) -> None:
    """Draft a node less. At least 3f+1 have to remain.

    Example: [bold]quorumcache admin remove-node n4[/bold]
    """
    from quorumcache.core import amend

    file, config = _current(cluster)
    _draft(file, config, amend.remove_node(config, node), out)


@admin.command("replace-node")
def replace_node(
    node: NodeArgument,
    key: KeyArgument,
    name: Annotated[str, typer.Option(help="The new node's name; the old one's unless given.")] = "",
    address: Annotated[str, typer.Option(help="The new node's host:port; the old one's unless given.")] = "",
    out: OutOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Draft another node, under a key of its own, in the place of one.

    Example: [bold]quorumcache admin replace-node n2 $(quorumcache keygen n2b.key --role node)[/bold]
    """
    from quorumcache.core import amend

    file, config = _current(cluster)
    after = amend.replace_node(config, node, _public(key), new_name=name, address=address)
    _draft(file, config, after, out)


def console_of() -> Console:
    """Where the plan goes."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def _public(text: str) -> bytes:
    from quorumcache.errors import Misuse

    if len(text) != 64 or set(text) - set(string.hexdigits):
        raise Misuse(f"{text[:80]!r} is no public key: 64 hex digits, as quorumcache keygen prints them")
    return bytes.fromhex(text)


def _current(cluster: Path | None) -> tuple[Path, Configuration]:
    from quorumcache.wire.founding import cluster_file_of, read_cluster_file

    file = cluster_file_of(cluster_path(cluster))
    return file, read_cluster_file(file).configuration


def _draft(file: Path, config: Configuration, after: Configuration, out: Path | None) -> None:
    """Write the draft, unless it is there already. Another one in its place may carry signatures: it stays."""
    from rich.markup import escape

    from quorumcache.core.config import SignedConfiguration
    from quorumcache.core.succession import check_successor
    from quorumcache.errors import ConfigurationError
    from quorumcache.wire.signing import read_draft, write_draft

    check_successor(after, config)
    target = file.with_name("next.toml") if out is None else out
    draft = SignedConfiguration(after)
    if target.exists():
        draft = read_draft(target)
        if draft.configuration != after:
            raise ConfigurationError(
                f"{target}: another draft is there, and is not written over. One change an epoch: go on with that one, "
                "move it away, or name another file with --out"
            )
    else:
        write_draft(target, draft)
    _plan(draft, config, target)
    console_of().print(
        f"\nNothing has changed yet. Next, each administrator: quorumcache admin sign {escape(str(target))} "
        f"--cluster {escape(str(file))} --key ADMIN_KEY_FILE"
    )


def _plan(draft: SignedConfiguration, config: Configuration, file: Path) -> None:
    from rich.markup import escape

    from quorumcache.core.config import warnings_of
    from quorumcache.core.seals import check_movable
    from quorumcache.core.succession import changes, check_successor
    from quorumcache.errors import ConfigurationError

    after = draft.configuration
    check_successor(after, config)
    console = console_of()
    console.print(
        f"{escape(str(file))}: epoch {config.epoch} -> {after.epoch} of [bold]{escape(after.cluster_id)}[/bold], "
        f"digest {after.digest.hex()}"
    )
    for line in changes(after, config):
        console.print(f"  {escape(line)}")
    before = set(warnings_of(config))
    for warning in warnings_of(after):
        if warning not in before:
            console.print(f"  [yellow]Warning:[/yellow] {escape(warning)}")
    try:
        check_movable(after, config)
    except ConfigurationError as problem:
        # Said before anybody signs: a key that signed this draft signs no other for this epoch.
        console.print(f"  [yellow]Warning:[/yellow] admin apply will refuse this. {escape(str(problem))}")
    _signatures(draft, config)


def _signatures(signed: SignedConfiguration, config: Configuration) -> None:
    from quorumcache.core.succession import signatures_of
    from quorumcache.wire.keys import verify

    found = signatures_of(signed, config, verify)
    names = ", ".join(x.hex()[:16] for x in found.signed) or "nobody"
    missing = max(found.missing_before, found.missing_own)
    what = "all that are needed" if found.complete else f"{missing} more needed"
    if found.missing_before != found.missing_own:
        what = f"needed: {found.missing_before} more of those before, {found.missing_own} more of its own"
    console_of().print(f"  signed by {names}; {what}")
