"""Ed25519 keys: signing, verifying, and the files that keep secret keys.

Belongs here: bytes in, signatures out, by one implementation (libsodium through PyNaCl), one at a time and
never as a batch, so that all parties accept exactly the same signatures. What is signed, and under which
domain tag, is for the callers to say. Must not know messages, configurations or who may do what; never shows
a secret in text or errors.
"""

import os
import select
import shlex
import stat
import time
from pathlib import Path
from typing import Final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from quorumcache.errors import KeyFileError

SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

ROLES: Final = ("admin", "node", "writer")

_FIRST_LINE: Final = "quorumcache key file 1"
_FILE_BYTES_MAX: Final = 4096
_DESCRIPTOR_S_MAX: Final = 5.0
_POSIX: Final = os.name == "posix"


class SigningKey:
    """A secret key. `public` is its 32-byte public key; the secret appears in no text of this object."""

    __slots__ = ("_secret", "public")

    public: bytes

    def __init__(self, seed: bytes) -> None:
        """`seed`: 32 secret bytes; the same seed gives the same key."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed of {len(seed)} bytes; exactly {SEED_BYTES} are needed")
        self.public, self._secret = crypto_sign_seed_keypair(seed)

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new key from the operating system's randomness."""
        return cls(os.urandom(SEED_BYTES))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes. Whoever has them is the key's owner."""
        return self._secret[:SEED_BYTES]

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`, which has to begin with its domain tag."""
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `public`'s over `message`. Other lengths are just not valid."""
    # libsodium reads 32 and 64 bytes whatever it is given, so the lengths are checked before it is asked.
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except BadSignatureError:
        return False
    return True


def write_key_file(path: str | os.PathLike[str], key: SigningKey, *, role: str) -> None:
    """Create a key file that only its owner may read (mode 0600) and that did not exist before.

    `role` is one of ROLES, and read back it must be the one that is expected. Raises KeyFileError where the
    file exists or cannot be written; then nothing is left behind.
    """
    path = Path(path)
    if role not in ROLES:
        raise KeyFileError(f"{path}: no key file has the role {role[:40]!r}; one of {', '.join(ROLES)}")
    create_secret_file(path, f"{_FIRST_LINE}\nrole: {role}\npublic: {key.public.hex()}\nsecret: {key.seed.hex()}\n")


def create_secret_file(path: Path, text: str) -> None:
    """Create a file with this ASCII text that only its owner may read (mode 0600) and that did not exist before.

    Raises KeyFileError where the file exists or cannot be written; then nothing is left behind.
    """
    try:
        # With O_EXCL neither an existing key nor the target of a link that somebody planted is written over.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(
            f"{path}: exists already, and a key is never written over. Choose another name, or move it away."
        ) from None
    except OSError as problem:
        raise KeyFileError(f"{path}: cannot be created: {problem.strerror}.") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
    except BaseException as problem:
        path.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise KeyFileError(f"{path}: cannot be written: {problem.strerror}.") from None
        raise


def read_key_file(path: str | os.PathLike[str], *, role: str | None = None) -> SigningKey:
    """The key in a file that `write_key_file` made; with `role`, only if it was made for that role.

    Raises KeyFileError, which names the file and what to do, where it is missing, no regular file, open to
    others (POSIX), corrupt, or of another role.
    """
    path = Path(path)
    return key_from(path, read_secret_file(path), role=role)


def key_from(path: Path, content: bytes, *, role: str | None = None) -> SigningKey:
    """The key in a key file's content; `path` is for errors. Raises KeyFileError."""
    fields = _fields(path, content)
    if role is not None and fields["role"] != role:
        raise KeyFileError(
            f"{path}: is a key file for the role {fields['role']}, and one for the role {role} is needed. "
            "Name another file."
        )
    key = SigningKey(bytes.fromhex(fields["secret"]))
    if key.public.hex() != fields["public"]:
        raise _corrupt(path, "its public key does not belong to its secret key")
    return key


def read_secret_file(path: Path, *, hint: str = "quorumcache keygen") -> bytes:
    """A file's content up to a bound, where only its owner may read it. Raises KeyFileError; `hint` makes one.

    In a file's place may stand `env:NAME`, for the content of an environment variable, or `fd:NUMBER`, for what can be
    read from an open file descriptor, which is closed then.
    """
    kind, _, rest = str(path).partition(":")
    if kind == "env" and rest:
        value = os.environb.get(os.fsencode(rest))
        if value is None:
            raise KeyFileError(f"{path}: there is no such environment variable. Put a key file's content into it.")
        return value[: _FILE_BYTES_MAX + 1]
    if kind == "fd" and rest.isascii() and rest.isdigit():
        return _read_descriptor(path, int(rest))
    try:
        # Without O_NONBLOCK a named pipe in the file's place would make this wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path}: is not a regular file. Name a key file.")
            mode = stat.S_IMODE(status.st_mode)
            if _POSIX and mode & 0o077:
                raise KeyFileError(
                    f"{path}: its mode {mode:04o} lets others at a secret key. Run: "
                    f"chmod 600 {shlex.quote(str(path))} "
                    "(and if others may have read it, make a new key)"
                )
            return file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such file. Make a key with: {hint}") from None
    except OSError as problem:
        raise KeyFileError(f"{path}: cannot be read: {problem.strerror}.") from None


def _read_descriptor(path: Path, number: int) -> bytes:
    content, end_s = b"", time.monotonic() + _DESCRIPTOR_S_MAX
    try:
        # Closed whatever happens: a child of this process should not inherit it.
        with os.fdopen(number, "rb", buffering=0) as file:
            while len(content) <= _FILE_BYTES_MAX:
                if not select.select([file], [], [], max(0.0, end_s - time.monotonic()))[0]:
                    raise KeyFileError(f"{path}: nobody ended what is written there within {_DESCRIPTOR_S_MAX:.0f} s.")
                part = file.read(_FILE_BYTES_MAX + 1 - len(content))
                if not part:
                    break
                content += part
    except (OSError, ValueError, OverflowError) as problem:
        raise KeyFileError(f"{path}: cannot be read: {getattr(problem, 'strerror', None) or problem}.") from None
    if not content:
        raise KeyFileError(f"{path}: nothing is written there. Write a key file's content to it.")
    return content


def _fields(path: Path, content: bytes) -> dict[str, str]:
    """The file's three fields, checked for form. No error repeats the content: it may be a secret."""
    if len(content) > _FILE_BYTES_MAX:
        raise _corrupt(path, f"it is longer than {_FILE_BYTES_MAX} bytes")
    if not content.isascii():
        raise _corrupt(path, "it holds bytes that are not ASCII")
    lines = content.decode("ascii").splitlines()
    if not lines or lines[0] != _FIRST_LINE:
        raise _corrupt(path, f"its first line is not {_FIRST_LINE!r}")
    fields = {}
    for name, line in zip(("role", "public", "secret"), [*lines[1:4], "", "", ""], strict=False):
        begin = f"{name}: "
        value = line.removeprefix(begin)
        if not line.startswith(begin):
            raise _corrupt(path, f"the line {begin!r} is missing or out of place")
        if name == "role" and value not in ROLES:
            raise _corrupt(path, f"its role is none of {', '.join(ROLES)}")
        if name != "role" and (len(value) != 64 or set(value) - set("0123456789abcdef")):
            raise _corrupt(path, f"the line {begin!r} does not hold 64 lowercase hex digits")
        fields[name] = value
    if len(lines) > 4:
        raise _corrupt(path, "there is more in it than a key")
    return fields


def _corrupt(path: Path, problem: str) -> KeyFileError:
    return KeyFileError(f"{path}: is no usable key file: {problem}. Restore a copy, or make a new key.")
