"""The rules that a cluster configuration obeys: bounds, and what has to fit together.

What a configuration is, is in core/config_model.py; this must not know how it is read or who trusts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from quorumcache.core.rights import EVERY_WRITER, check_rights
from quorumcache.errors import ConfigurationError

if TYPE_CHECKING:
    from quorumcache.core.config_model import Configuration

US = 1_000_000

NODES_MAX = 1000
F_MAX = 33
SHARDS_MAX = 65_536
# Placing shards takes a step per node and shard; this many take a few seconds.
PLACEMENT_STEPS_MAX = 1 << 22
NAMESPACES_MAX = 1000
WRITERS_MAX = 10_000
ADMINS_MAX = 64
WEIGHT_MAX = 1000
TIME_US_MAX = (1 << 63) - 1
VALUE_BYTES_MAX = 1 << 30
TTL_S_MAX = (1 << 32) - 1
QUOTA_BYTES_MIN = 1 << 16
QUOTA_BYTES_MAX = 1 << 50
KEY_BYTES = 32
DIGEST_BYTES = 32
SIGNATURE_BYTES = 64

TYPES = ("register", "siblings", "counter", "set", "map", "exact")
MODES = ("quorum", "primary")
ENCRYPTIONS = ("none", "client")
STATUSES = ("active", "retired", "revoked")

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_ADDRESS = re.compile(r"(?:[a-zA-Z0-9_.-]{1,253}|\[[0-9a-fA-F:.%]{2,64}\]):([0-9]{1,5})")


def fault(field: str, problem: str) -> ConfigurationError:
    """What is wrong with a field, as an error."""
    return ConfigurationError(f"configuration, {field}: {problem}")


def check(config: Configuration) -> None:
    """Raise ConfigurationError for the first rule that it does not obey."""
    _check_name("cluster_id", config.cluster_id)
    _check_range("epoch", config.epoch, 1, TIME_US_MAX)
    if (config.previous is None) != (config.epoch == 1):
        raise fault("previous", "the predecessor's digest is required from epoch 2 on, and absent at epoch 1")
    if config.previous is not None:
        _check_bytes("previous", config.previous, DIGEST_BYTES)
    _check_range("oldest_epoch", config.oldest_epoch, 1, config.epoch)
    _check_range("f", config.f, 0, F_MAX)
    _check_range("shards", config.shards, 1, SHARDS_MAX)
    _check_range("max_skew_us", config.max_skew_us, 1, 3600 * US)
    _check_range("op_time_us", config.op_time_us, 1, 3600 * US)
    _check_range("grace_us", config.grace_us, 0, config.op_time_us)
    _check_range("valid_until_us", config.valid_until_us, 0, TIME_US_MAX)

    _check_range("admins (how many)", len(config.admins), 1, ADMINS_MAX)
    for index, key in enumerate(config.admins):
        _check_bytes(f"admins[{index}]", key, KEY_BYTES)
    _check_distinct("admins", (key.hex() for key in config.admins))
    _check_range("admins_needed", config.admins_needed, len(config.admins) // 2 + 1, len(config.admins))

    _check_range("nodes (how many)", len(config.nodes), 3 * config.f + 1, NODES_MAX)
    if len(config.nodes) * config.shards > PLACEMENT_STEPS_MAX:
        most = PLACEMENT_STEPS_MAX // len(config.nodes)
        raise fault("shards", f"{config.shards} are too many for {len(config.nodes)} nodes; at most {most}")
    for index, node in enumerate(config.nodes):
        at = f"nodes[{index}]"
        if node.index != index:
            raise fault(f"{at}.index", f"{node.index}, but the node is number {index} in the list")
        _check_name(f"{at}.name", node.name)
        _check_bytes(f"{at}.key", node.key, KEY_BYTES)
        _check_address(f"{at}.address", node.address)
        if node.zone:
            _check_name(f"{at}.zone", node.zone)
        _check_range(f"{at}.weight", node.weight, 1, WEIGHT_MAX)
    _check_distinct("nodes, name", (node.name for node in config.nodes))
    _check_distinct("nodes, key", (node.key.hex() for node in config.nodes))

    _check_range("writers (how many)", len(config.writers), 0, WRITERS_MAX)
    for index, writer in enumerate(config.writers):
        _check_name(f"writers[{index}].name", writer.name)
        _check_bytes(f"writers[{index}].key", writer.key, KEY_BYTES)
        _check_choice(f"writers[{index}].status", writer.status, STATUSES)
    _check_distinct("writers, name", (writer.name for writer in config.writers))
    _check_distinct("writers, key", (writer.key.hex() for writer in config.writers))

    names = {writer.name for writer in config.writers}
    _check_range("namespaces (how many)", len(config.namespaces), 0, NAMESPACES_MAX)
    for index, namespace in enumerate(config.namespaces):
        at = f"namespaces[{index}]"
        _check_name(f"{at}.name", namespace.name)
        _check_choice(f"{at}.type", namespace.type, TYPES)
        _check_choice(f"{at}.mode", namespace.mode, MODES)
        if namespace.mode == "primary" and namespace.type != "register":
            raise fault(f"{at}.mode", "only registers can have the mode primary: it has no quorum to agree on a base")
        _check_range(f"{at}.ack", namespace.ack, 1, config.n if namespace.mode == "primary" else 1)
        _check_choice(f"{at}.encryption", namespace.encryption, ENCRYPTIONS)
        if namespace.encryption != "none" and namespace.type != "register":
            raise fault(f"{at}.encryption", "clients seal the values of registers only; the type has to be register")
        if namespace.hide_keys and namespace.encryption == "none":
            raise fault(f"{at}.hide_keys", 'keys are hidden only where values are sealed: encryption = "client"')
        _check_range(f"{at}.value_bytes_max", namespace.value_bytes_max, 0, VALUE_BYTES_MAX)
        _check_range(f"{at}.ttl_s_max", namespace.ttl_s_max, 0, TTL_S_MAX)
        if namespace.quota_bytes:
            _check_range(f"{at}.quota_bytes", namespace.quota_bytes, QUOTA_BYTES_MIN, QUOTA_BYTES_MAX)
        if namespace.writers != EVERY_WRITER:
            _check_distinct(f"{at}.writers", namespace.writers)
            for name in namespace.writers:
                if name not in names:
                    raise fault(
                        f"{at}.writers",
                        f'{name[:80]!r} is no writer; name one, or ["*"] alone for every writer',
                    )
    _check_distinct("namespaces, name", (namespace.name for namespace in config.namespaces))
    check_rights(config.rights, config.namespaces, config.writers)


def _check_name(field: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise fault(field, f"{name[:80]!r} is not allowed; 1 to 64 of the characters a-z A-Z 0-9 _ . -")


def _check_address(field: str, address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if address and (match is None or not 1 <= int(match[1]) <= 65_535):
        raise fault(field, f"{address[:80]!r} is not allowed; host:port with a port of 1 to 65535, or empty")


def _check_bytes(field: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise fault(field, f"{len(value)} bytes are not allowed; exactly {length} bytes ({2 * length} hex digits)")


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise fault(field, f"{value} is not allowed; {low} to {high}")


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise fault(field, f"{value[:80]!r} is not allowed; one of {', '.join(choices)}")


def _check_distinct(field: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise fault(field, f"{value[:80]!r} occurs twice; each may occur once")
        seen.add(value)
