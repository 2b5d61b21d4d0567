"""TLS between clients and nodes: a node's certificate, and how a client knows that it is that node's.

A node's certificate is made from its ed25519 key when it starts and says nothing but that key; a client compares it
with the key that the configuration names, before it sends a byte. So there is no authority, no name and no date to
trust: dates in a certificate do not count, as clients need no exact clock and keys end with the configuration. What
sessions add on top is in wire/handshake.py. It must not know messages.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import aiohttp
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from quorumcache.core.config import NodeInfo
from quorumcache.wire.keys import SigningKey

HANDSHAKE_S_MAX: Final = 5.0
#: How long a connection that ends waits for the other side's word that it has ended.
SHUTDOWN_S_MAX: Final = 1.0
CERTIFICATE_BYTES_MAX: Final = 4096
_BINDING_TAG: Final = b"quorumcache tls 1\0"
# No date is ever over: a node's clock may be wrong, and a client's too.
_NOT_BEFORE: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class WrongNodeKey(aiohttp.ServerFingerprintMismatch):
    """What answers showed another key than the node's, or none. `str` says so for people."""

    def __init__(self, detail: str) -> None:
        super().__init__(b"", b"", "", 0)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class NodePin(aiohttp.Fingerprint):
    """What a connection to `node` is checked by; aiohttp asks it when TLS stands and before it sends anything.

    aiohttp knows pins of a certificate's hash. A node's certificate is new at each start and only its key stays, so
    this one replaces the comparison.
    """

    def __init__(self, node: NodeInfo) -> None:
        super().__init__(bytes(32))
        self._node = node
        self._transport: asyncio.Transport | None = None

    def check(self, transport: asyncio.Transport) -> None:
        """Raise WrongNodeKey unless the connection's peer proved the node's key."""
        self._transport = transport
        try:
            binding_to(self._node, transport.get_extra_info("ssl_object"))
        except WrongNodeKey:
            # Not now: aiohttp still asks the transport for its address.
            asyncio.get_running_loop().call_soon(self.cut)
            raise

    def cut(self) -> None:
        """End the connection that was checked last, without waiting for the other side's TLS to agree: sessions say
        farewell by themselves, and whoever is not the node could keep us waiting."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()


def binding_to(node: NodeInfo, ssl_object: Any) -> bytes:
    """What the session handshake is bound to: the hash of the certificate that `node` showed on this TLS connection.

    Raises WrongNodeKey where there is no TLS 1.3, or the certificate's key is not the node's. That the peer has the
    key is proven by then: TLS 1.3 does not stand without its signature over the handshake.
    """
    version = None if ssl_object is None else ssl_object.version()
    if version != "TLSv1.3":
        raise WrongNodeKey(f"the connection to {node.name} has {version or 'no TLS'}, and TLS 1.3 is needed")
    certificate = ssl_object.getpeercert(binary_form=True)
    shown = _key_in(certificate)
    if shown != node.key:
        what = "no ed25519 key" if shown is None else f"the key {shown.hex()}"
        raise WrongNodeKey(
            f"it showed {what}, and the configuration names {node.key.hex()} for {node.name}: "
            "another node, another cluster or an impostor answers at this address"
        )
    return binding_of(certificate)


def binding_of(certificate: bytes) -> bytes:
    """The hash of a certificate in DER that either side puts into the session's transcript."""
    return blake2b(_BINDING_TAG + certificate, digest_size=32).digest()


def certificate_of(key: SigningKey, *, not_after: datetime.datetime = _NOT_AFTER) -> x509.Certificate:
    """A certificate for this key, signed by it, with a serial number of its own."""
    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    # 64 characters are what a common name may have, and what a key in hex has.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, key.public.hex())])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(_NOT_BEFORE).not_valid_after(not_after).sign(private, None)


def server_context(key: SigningKey, certificate: x509.Certificate) -> ssl.SSLContext:
    """What a node serves TLS with: 1.3 only, this certificate, no resumption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Sessions are long and few: a resumed one would save little, and would not sign anything.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    # The ssl module takes keys from files only: it gets one for a moment, under a password that is nowhere else.
    password = os.urandom(32).hex()
    private = Ed25519PrivateKey.from_private_bytes(key.seed).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )
    with tempfile.TemporaryDirectory(prefix="quorumcache-") as directory:
        file = Path(directory) / "node.pem"
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(file, password=password)
    return context


def _key_in(certificate: bytes | None) -> bytes | None:
    """The ed25519 key of a certificate in DER; None where it has none, or is none."""
    if not certificate or len(certificate) > CERTIFICATE_BYTES_MAX:
        return None
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None
