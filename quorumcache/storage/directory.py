"""A node's data directory: who uses it, how its last user ended, and what is set aside.

`state.json` says whether the last user is still running or has stopped in order, under which boot of the machine, and
what its storage survives; it is written and synced before anything that depends on it. It must not know what the
files hold.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Final

from quorumcache.errors import DiskFailed, Misuse

_MARK: Final = "state.json"
_MARK_BYTES_MAX: Final = 4096
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: So many damaged files are kept; the oldest go first.
ASIDE_MAX: Final = 3
SUFFIXES: Final = ("", "-wal", "-shm")

RUNNING: Final = "running"
STOPPED: Final = "stopped"
BROKEN: Final = "broken"


def boot_id() -> str:
    """What tells this boot of the machine from any other; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


class Directory:
    """A directory for the files of one node and one process at a time. Raises Misuse where another process has it, and
    DiskFailed where it cannot be made or written."""

    def __init__(self, path: Path, *, boot: str | None = None) -> None:
        self.path = path
        self.database = path / "entries.sqlite"
        self._boot = boot_id() if boot is None else boot
        #: Whether the last user, as far as `distrust` found out, ran under this boot of the machine.
        self.is_same_boot = False
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as fault:
            raise DiskFailed(f"{path}: cannot be used to keep entries in: {fault.strerror}") from None
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._lock)
                raise Misuse(
                    f"{path}: another process keeps its entries there; each node needs a data directory of its own"
                ) from None

    def close(self) -> None:
        """Let others have it."""
        os.close(self._lock)

    # --- the mark ---

    def distrust(self) -> str:
        """Why files that are here may have lost their tail; empty where they have not (protocol 7)."""
        try:
            with (self.path / _MARK).open("rb") as file:
                mark = json.loads(file.read(_MARK_BYTES_MAX))
            state, durability, boot = mark["state"], mark["durability"], mark["boot"]
        except (OSError, ValueError, KeyError, TypeError):
            return "nothing says how the node ended"
        self.is_same_boot = bool(boot) and boot == self._boot
        if state == STOPPED or (state == RUNNING and durability == "power"):
            return ""
        if state != RUNNING:
            return "its disk had failed"
        if self.is_same_boot:
            return ""
        return "the machine went down while the node ran, and its durability is 'process'"

    def mark(self, state: str, durability: str) -> None:
        """Write the mark, durably. Raises OSError."""
        text = json.dumps({"state": state, "durability": durability, "boot": self._boot})
        new = self.path / f"{_MARK}.new"
        with new.open("wb") as file:
            file.write(text.encode() + b"\n")
            file.flush()
            sync(file.fileno())
        new.replace(self.path / _MARK)
        self.sync_names()

    def sync_names(self) -> None:
        """Make the names of the files here durable. Raises OSError."""
        if sys.platform == "win32":
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # --- the files ---

    def remove(self) -> None:
        """Remove the database."""
        for suffix in SUFFIXES:
            Path(f"{self.database}{suffix}").unlink(missing_ok=True)

    def set_aside(self, why: str) -> Path:
        """Rename the database to NAME.`why`-N; returns its new path. Raises OSError."""
        # Several files cannot be renamed at once: whoever finds some of them must not trust them.
        self.mark(BROKEN, "process")
        aside = self.path / f"{self.database.name}.{why}"
        numbers = sorted(
            int(number)
            for path in self.path.glob(f"{aside.name}-*")
            if (number := path.name.removeprefix(f"{aside.name}-")).isdecimal()
        )
        for old in numbers[: max(0, len(numbers) - ASIDE_MAX + 1)]:
            for suffix in SUFFIXES:
                Path(f"{aside}-{old}{suffix}").unlink(missing_ok=True)
        target = Path(f"{aside}-{numbers[-1] + 1 if numbers else 1}")
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.database}{suffix}").rename(f"{target}{suffix}")
        return target


def sync(descriptor: int) -> None:
    """Have the disk keep what was written to a file. Raises OSError."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)
