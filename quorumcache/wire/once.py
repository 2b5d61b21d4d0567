"""Files that are written once, durably, and never in another's place: what a key has bound itself to.

Belongs here: how such a file comes to be, whole or not at all. What is in it, and what that means, is for
wire/signing.py and wire/sealrecord.py. Must not know keys or configurations.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_once(file: Path, text: str) -> bool:
    """Write ASCII text to a file that does not exist yet, and have it on disk, with its name, on return. False where
    the file is there already: then nothing has changed. Makes the directory where it is missing. Raises OSError."""
    draft = file.with_name(f"{secrets.token_hex(8)}.new")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with draft.open("x", encoding="ascii") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        try:
            # A link appears whole or not at all, and never in another's place.
            os.link(draft, file)
            is_new = True
        except FileExistsError:
            is_new = False
    finally:
        draft.unlink(missing_ok=True)
    # In both cases: whoever wrote it first may have ended before its name was on disk.
    sync_directory(file.parent)
    return is_new


def sync_directory(directory: Path) -> None:
    """Have a directory's names on disk. Raises OSError."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
