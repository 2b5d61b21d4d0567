"""`quorumcache keygen`: one new key in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def keygen(
    path: Annotated[Path, typer.Argument(help="Where to write the key; must not exist.", show_default=False)],
    role: Annotated[
        str, typer.Option(help="Who will hold it: writer, node or admin; or data: to seal values with.")
    ] = "writer",
) -> None:
    """Make a key that only its owner can read (mode 0600), and print its public half.

    The public key goes into the cluster's configuration; the file stays with whoever uses it. With --role data, the
    file goes to every client of the namespaces whose values clients seal, and to no node.

    Example: [bold]quorumcache keygen alice.key[/bold]
    """
    from quorumcache.errors import KeyFileError
    from quorumcache.wire.keys import ROLES, SigningKey, write_key_file
    from quorumcache.wire.sealing import DataKeys, write_data_keys
    from quorumcache.wire.sealrecord import SealRecord, record_beside

    if role == "data":
        keys = DataKeys.generate()
        write_data_keys(path, keys)
        typer.echo(f"Wrote a data key and one that hides names to {path} (mode 0600). The data key's id:", err=True)
        typer.echo(keys.ids[0])
        return
    if role not in ROLES:
        raise KeyFileError(f"--role {role[:40]}: there is no such role; one of {', '.join(ROLES)}, data")
    key = SigningKey.generate()
    write_key_file(path, key, role=role)
    if role == "node":
        SealRecord(record_beside(path), key.public).begin()
        typer.echo(f"Its record of ended epochs is {record_beside(path)}: the two go together.", err=True)
    typer.echo(f"Wrote a {role} key to {path} (mode 0600). Its public key:", err=True)
    typer.echo(key.public.hex())
