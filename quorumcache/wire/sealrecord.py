"""What a node remembers of the epochs that it ended, beside its key (protocol 9): a directory of files written once.

Belongs here: the record's layout, and that a key does not go without it. A node that forgot a seal would answer in an
epoch that is over, and undo a revocation; without a record it cannot know that it forgot one. So the record belongs to
the key, whatever the storage. Must not know sockets, or when a node seals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from quorumcache.core.config import Configuration, SignedConfiguration, canonical, parse_toml, to_toml
from quorumcache.core.config_rules import NODES_MAX
from quorumcache.core.epochmessages import read_document
from quorumcache.core.seals import Seal, Step, check_step
from quorumcache.core.succession import CHAIN_MAX, check_link
from quorumcache.errors import ConfigurationError
from quorumcache.wire.keys import PUBLIC_BYTES, SIGNATURE_BYTES, verify
from quorumcache.wire.once import write_once

_BEGUN: Final = "begun"
_FIRST_LINE: Final = "quorumcache seals 1"
_FILE_BYTES_MAX: Final = 4 << 20


def record_beside(key_file: Path) -> Path:
    """Where the record of the key in this file is: `node-n0.key` has `node-n0.seals`, a directory."""
    return key_file.with_suffix(".seals")


class SealRecord:
    """The record of one node's key, in `directory`. Files: `begun` names the key; for each epoch that ended,
    DIGEST.toml is the successor that the node sealed for, and DIGEST.seals shows that the next epoch has begun, where
    DIGEST is that of the configuration that ended; DIGEST.joined, that the node has recovered what it joined then;
    DIGEST.json is a configuration that it worked under. All errors are ConfigurationErrors that name the file.
    """

    def __init__(self, directory: Path, key: bytes) -> None:
        self.directory = directory
        self.key = key

    def begin(self) -> None:
        """Begin the record of a key that has never sealed anything: one just made, or before its first start. Doing it
        again changes nothing."""
        file = self.directory / _BEGUN
        if not self._write(file, self._begun):
            self.check()

    @property
    def _begun(self) -> str:
        return f"{_FIRST_LINE}\nkey: {self.key.hex()}\n"

    def check(self) -> None:
        """Raise unless there is a record, of this very key."""
        file = self.directory / _BEGUN
        text = self._read(file)
        if text is None:
            raise ConfigurationError(
                f"{file}: there is no record of what this node's key sealed, and a node that forgot a seal can bring "
                "back what was revoked. Restore the directory; where that cannot be, make a new key and replace the "
                "node. A key that was never used before begins its record with quorumcache node --first-start."
            )
        if text != self._begun:
            raise ConfigurationError(
                f"{file}: is another key's record, or damaged. Restore the one of this node's key."
            )

    def remember(self, before: Configuration, successor: SignedConfiguration) -> None:
        """Durably note that the node ends `before` for this successor: what it does before it seals. The same again
        changes nothing; another is refused."""
        self.check()
        file = self._file(before, "toml")
        if self._write(file, to_toml(successor)):
            return
        found = self.remembered(before)
        if found is None or found.configuration.digest != successor.configuration.digest:
            digest = "" if found is None else found.configuration.digest.hex()[:16]
            raise ConfigurationError(
                f"{file}: this node sealed epoch {before.epoch} for another successor, {digest}; it seals only one."
            )

    def remembered(self, before: Configuration) -> SignedConfiguration | None:
        """The successor for which the node sealed `before`; None where it has not."""
        file = self._file(before, "toml")
        text = self._read(file)
        if text is None:
            return None
        try:
            signed = parse_toml(text)
            check_link(signed, before, verify)
        except ConfigurationError as problem:
            raise ConfigurationError(f"{file}: {problem}") from None
        return signed

    def began(self, before: Configuration, step: Step) -> None:
        """Durably note that the next epoch has begun, with all that shows it. It was remembered before."""
        self.check()
        lines = [f"{seal.node.hex()} {seal.signature.hex()}\n" for seal in step.seals]
        self._write(self._file(before, "seals"), "".join(lines))

    def joined(self, before: Configuration) -> None:
        """Durably note that the node has recovered what it joined with the epoch after `before`."""
        self._write(self._file(before, "joined"), "")

    def has_joined(self, before: Configuration) -> bool:
        """Whether that was noted."""
        return self._read(self._file(before, "joined")) is not None

    def know(self, configuration: Configuration) -> None:
        """Keep a configuration, for later epochs in which its certificates count. Its digest vouches for it."""
        self._write(self._file(configuration, "json"), canonical(configuration).decode("ascii"))

    def past(self, configuration: Configuration) -> tuple[list[Configuration], list[Step]]:
        """What is known of the epochs before this one: configurations, and the steps that led here from one of them,
        both the oldest first. Steps are as they were written: whoever is shown them checks them."""
        successors: dict[bytes, SignedConfiguration] = {}
        kept: dict[bytes, Configuration] = {}
        for file in sorted(self.directory.glob("*.toml")):
            signed = self._parsed(file)
            successors[signed.configuration.digest] = signed
        for file in sorted(self.directory.glob("*.json")):
            text = self._read(file)
            try:
                found = read_document((text or "").encode("ascii"))
            except ConfigurationError as problem:
                raise ConfigurationError(f"{file}: {problem}") from None
            kept[found.digest] = found
        known: list[Configuration] = []
        steps: list[Step] = []
        after, is_shown = configuration, True
        while after.previous is not None and len(known) < CHAIN_MAX:
            successor, before = successors.get(after.digest), after.previous
            file = self.directory / f"{before.hex()}.seals"
            text = self._read(file) if successor is not None else None
            is_shown = is_shown and text is not None
            if is_shown and successor is not None and text is not None:
                steps.append(Step(successor, self._seals(file, text)))
            earlier = kept.get(before) or (successors[before].configuration if before in successors else None)
            if earlier is None:
                break
            known.append(earlier)
            after = earlier
        return known[::-1], steps[::-1]

    def _parsed(self, file: Path) -> SignedConfiguration:
        try:
            return parse_toml(self._read(file) or "")
        except ConfigurationError as problem:
            raise ConfigurationError(f"{file}: {problem}") from None

    def steps_from(self, trusted: Configuration) -> tuple[Step, ...]:
        """The steps that this node took from a configuration on, each checked: so it finds its epoch again, whatever
        file it is started with. After the last one it may have sealed: `remembered` says."""
        steps: list[Step] = []
        current = trusted
        while len(steps) < CHAIN_MAX:
            successor = self.remembered(current)
            text = None if successor is None else self._read(self._file(current, "seals"))
            if successor is None or text is None:
                return tuple(steps)
            step = Step(successor, self._seals(self._file(current, "seals"), text))
            try:
                current = check_step(step, current, verify)
            except ConfigurationError as problem:
                raise ConfigurationError(f"{self._file(current, 'seals')}: {problem}") from None
            steps.append(step)
        raise ConfigurationError(f"{self.directory}: more than {CHAIN_MAX} epochs; begin with a newer configuration.")

    def _seals(self, file: Path, text: str) -> tuple[Seal, ...]:
        lines = text.splitlines()
        seals = []
        try:
            for line in lines[: NODES_MAX + 1]:
                node, signature = (bytes.fromhex(part) for part in line.split(" "))
                if len(node) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
                    raise ValueError("no key and signature")
                seals.append(Seal(node, signature))
        except ValueError:
            raise ConfigurationError(f"{file}: line {len(seals) + 1} is no seal. Restore the directory.") from None
        return tuple(seals)

    def _file(self, before: Configuration, kind: str) -> Path:
        return self.directory / f"{before.digest.hex()}.{kind}"

    def _write(self, file: Path, text: str) -> bool:
        try:
            return write_once(file, text)
        except OSError as problem:
            raise ConfigurationError(f"{file}: cannot be written, so nothing was sealed: {problem.strerror}.") from None

    def _read(self, file: Path) -> str | None:
        try:
            with file.open("rb") as opened:
                content = opened.read(_FILE_BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise ConfigurationError(f"{file}: cannot be read: {problem.strerror}.") from None
        if len(content) > _FILE_BYTES_MAX or not content.isascii():
            raise ConfigurationError(f"{file}: is damaged. Restore the directory.")
        return content.decode("ascii")
