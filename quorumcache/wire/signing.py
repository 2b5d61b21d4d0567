"""Signing a cluster's next configuration: once per predecessor and key, and never another (protocol 9).

Belongs here: the record of what a key signed, which is on disk before the signature exists, and drafts as files. It
must not know terminals, or what a change means.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from quorumcache.core.config import Configuration, SignedConfiguration, parse_toml, to_toml
from quorumcache.core.succession import check_successor, signatures_of
from quorumcache.errors import ConfigurationError
from quorumcache.wire.keys import SigningKey, verify
from quorumcache.wire.once import sync_directory, write_once


def sign_successor(
    draft: SignedConfiguration, after: Configuration, key: SigningKey, record: Path
) -> SignedConfiguration:
    """The draft with the key's signature. Signing it again gives the same; another successor of `after` is refused.

    Two majorities of the administrators share one, and it signs only one of two drafts: so at most one configuration
    ever follows another. `record` is the directory, made where it is missing, that remembers; it goes where the key
    goes. Raises ConfigurationError where the draft may not follow, the key is no administrator's, or it signed another.
    """
    check_successor(draft.configuration, after)
    if key.public not in after.admins and key.public not in draft.configuration.admins:
        raise ConfigurationError(
            f"the key {key.public.hex()} is no administrator's, neither of epoch {after.epoch} nor of the draft"
        )
    _remember(record / f"{key.public.hex()}-{after.digest.hex()}", draft.configuration.digest)
    message = draft.signed_message
    known = signatures_of(draft, after, verify).signed
    # What others put into the file and does not count is left out: it would take the place of what does.
    valid = {admin: sig for admin, sig in draft.signatures if admin in known and verify(admin, message, sig)}
    valid[key.public] = key.sign(message)
    return SignedConfiguration(draft.configuration, tuple(valid.items()))


def _remember(file: Path, digest: bytes) -> None:
    """Durably note what is about to be signed."""
    line = digest.hex() + "\n"
    try:
        if write_once(file, line):
            return
        signed = file.read_text(encoding="utf-8", errors="replace")
    except OSError as problem:
        raise ConfigurationError(f"{file}: cannot be written, so nothing was signed: {problem.strerror}.") from None
    if signed != line:
        raise ConfigurationError(
            f"{file}: this key already signed another successor of the same configuration, "
            f"{signed.strip()[:16]!r}; a second one could split the cluster. Find that draft and go on with it."
        )


def read_draft(file: Path) -> SignedConfiguration:
    """A configuration from a file, signed by however many. Raises ConfigurationError, which names the file."""
    try:
        return parse_toml(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ConfigurationError(f"{file}: cannot be read: {problem.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: is not text, so no cluster file.") from None
    except ConfigurationError as problem:
        raise ConfigurationError(f"{file}: {problem}") from None


def write_draft(file: Path, draft: SignedConfiguration) -> None:
    """Write the file, or put it in the place of an earlier one, at once. Raises ConfigurationError, naming the file."""
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(4)}.new")
    try:
        with fresh.open("x", encoding="ascii") as opened:
            opened.write(to_toml(draft))
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(fresh, file)
        sync_directory(file.parent)
    except OSError as problem:
        fresh.unlink(missing_ok=True)
        raise ConfigurationError(f"{file}: cannot be written: {problem.strerror}.") from None
