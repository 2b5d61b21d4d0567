"""Which configuration may follow another (protocol 9): the links of the chain, and who has to sign them.

Belongs here: what a successor may change, whose signatures it needs, whether a chain holds, and what a change amounts
to in words. How a change is made is in core/amend.py. Must not know files, keys' secrets, or how a cluster moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from quorumcache.core.config_model import Configuration, SignedConfiguration, WriterInfo
from quorumcache.core.config_rules import ADMINS_MAX, fault
from quorumcache.errors import ConfigurationError

Verify = Callable[[bytes, bytes, bytes], bool]

#: Links that a chain is checked for at once. A longer one is checked in pieces.
CHAIN_MAX = 10_000

# Promises, floors and deadlines of both epochs are compared with each other, and mean these values.
_FOUNDED = ("cluster_id", "max_skew_us", "op_time_us", "tls")
# Entries stay where they are and are read by these: under others they would mean something else.
_OF_NAMESPACE = ("type", "mode", "encryption", "hide_keys")


@dataclass(frozen=True, slots=True)
class Signatures:
    """Who signed a configuration. Keys of administrators, in the order in which they are listed.

    `signed`: valid signatures of administrators of it or of its predecessor. `missing_before` and `missing_own`: how
    many more the predecessor's administrators, and its own, have to give. 0 and 0: it may be followed.
    """

    signed: tuple[bytes, ...]
    missing_before: int
    missing_own: int

    @property
    def complete(self) -> bool:
        """Whether enough of both signed."""
        return not (self.missing_before or self.missing_own)


def check_successor(successor: Configuration, after: Configuration) -> None:
    """Raise ConfigurationError unless `successor` may follow `after`, whoever signed it.

    1. It is of the next epoch and names the digest of `after`.
    2. What the cluster was founded with stays: id, `max_skew`, `op_time`, `tls`.
    3. `oldest_epoch` does not fall.
    4. A revoked key stays listed as revoked, as long as certificates of before count: a key that is not listed may not
       write, but what it wrote stands.
    5. A namespace keeps its type, mode and sealing, and is not removed, as long as certificates of before count.
    """
    if successor.epoch != after.epoch + 1:
        raise fault("epoch", f"{successor.epoch} does not follow epoch {after.epoch}; {after.epoch + 1} does")
    if successor.previous != after.digest:
        named = "none" if successor.previous is None else successor.previous.hex()[:16]
        raise fault("previous", f"{named} is not the predecessor's digest, {after.digest.hex()[:16]}: make it anew")
    for name in _FOUNDED:
        if getattr(successor, name) != getattr(after, name):
            raise fault(name, "a cluster keeps what it was founded with; found a new one")
    if successor.oldest_epoch < after.oldest_epoch:
        raise fault("oldest_epoch", f"{successor.oldest_epoch} would bring back what {after.oldest_epoch} took away")
    if successor.oldest_epoch == successor.epoch:
        # Nothing certified before counts any more, so no entry is left that 4 and 5 could be about.
        return
    status = {writer.key: writer.status for writer in successor.writers}
    for writer in after.writers:
        if writer.status == "revoked" and status.get(writer.key) != "revoked":
            raise fault("writers", f"{writer.name} is revoked, and has to stay listed so: else its entries come back")
    kept = {namespace.name: namespace for namespace in successor.namespaces}
    for before in after.namespaces:
        now = kept.get(before.name)
        if now is None:
            raise fault("namespaces", f"{before.name} is gone, and may go only where oldest_epoch = epoch")
        for name in _OF_NAMESPACE:
            if getattr(now, name) != getattr(before, name):
                raise fault(f"namespaces, {before.name}, {name}", "entries exist that were written under another")


def signatures_of(signed: SignedConfiguration, after: Configuration | None, verify: Verify) -> Signatures:
    """Who signed it, and how many are missing: m of the predecessor's administrators, since they hand over, and m of
    its own, so that no set of keys takes over that nobody has (as TUF rotates its root, specification 5.3.4).

    `after` None: the first configuration, signed by its own. Raises ConfigurationError for too many signatures.
    """
    if len(signed.signatures) > ADMINS_MAX:
        raise fault("signatures", f"{len(signed.signatures)} are too many; at most {ADMINS_MAX}")
    own = signed.configuration
    before = own if after is None else after
    known = dict.fromkeys([*before.admins, *own.admins])
    message = signed.signed_message
    valid = {key for key, signature in signed.signatures if key in known and verify(key, message, signature)}
    return Signatures(
        tuple(key for key in known if key in valid),
        max(0, before.admins_needed - len(valid.intersection(before.admins))),
        max(0, own.admins_needed - len(valid.intersection(own.admins))),
    )


def check_link(signed: SignedConfiguration, after: Configuration, verify: Verify) -> None:
    """Raise ConfigurationError unless it may follow `after` and enough administrators of both signed it."""
    check_successor(signed.configuration, after)
    found = signatures_of(signed, after, verify)
    if not found.complete:
        raise fault(
            "signatures",
            f"{len(found.signed)} count; {found.missing_before} more of the administrators of epoch {after.epoch} and "
            f"{found.missing_own} more of its own are needed (one may be both): have it signed",
        )


def check_chain(
    trusted: Configuration, links: Sequence[SignedConfiguration], verify: Verify
) -> tuple[Configuration, ...]:
    """The configurations of a chain that begins with a trusted one: itself and each link, every one checked.

    Raises ConfigurationError for the first link that does not hold, and for more than CHAIN_MAX of them.
    """
    if len(links) > CHAIN_MAX:
        raise ConfigurationError(f"configuration: a chain of {len(links)} links; at most {CHAIN_MAX} at once")
    chain = [trusted]
    for link in links:
        check_link(link, chain[-1], verify)
        chain.append(link.configuration)
    return tuple(chain)


def counting(after: Configuration, before: Sequence[Configuration]) -> list[Configuration]:
    """The configurations whose certificates count in an epoch: its own, and those before it since `oldest_epoch`."""
    return [after, *(x for x in before if after.oldest_epoch <= x.epoch < after.epoch)]


def lacks_history(configuration: Configuration, known: Sequence[Configuration]) -> bool:
    """Whether certificates count in an epoch that cannot be checked, for the configurations that they name are none of
    those `known` before it, the oldest first."""
    first = known[0] if known else configuration
    return first.epoch > configuration.oldest_epoch


def changes(successor: Configuration, after: Configuration) -> tuple[str, ...]:
    """What changes, a line of words each, in a fixed order; what it means for entries where that is not plain."""
    lines = []
    if successor.f != after.f or successor.shards != after.shards:
        lines.append(f"f {after.f} -> {successor.f}, shards {after.shards} -> {successor.shards}")
    if successor.f < after.f or successor.shards != after.shards:
        lines.append("every node joins its groups anew")
    for name in ("grace_us", "valid_until_us"):
        if getattr(successor, name) != getattr(after, name):
            lines.append(f"{name} {getattr(after, name)} -> {getattr(successor, name)}")
    if successor.oldest_epoch != after.oldest_epoch:
        lines.append(f"entries certified before epoch {successor.oldest_epoch} are evicted")
    if (successor.admins, successor.admins_needed) != (after.admins, after.admins_needed):
        lines += _members(
            "administrator", [x.hex()[:16] for x in after.admins], [x.hex()[:16] for x in successor.admins]
        )
        lines.append(f"signatures needed: {successor.admins_needed} of {len(successor.admins)}")
    for node in after.nodes:
        if successor.node_by_key(node.key) is None:
            lines.append(f"node {node.name} ({node.key.hex()[:16]}) leaves")
    for node in successor.nodes:
        old = after.node_by_key(node.key)
        if old is None:
            lines.append(f"node {node.name} ({node.key.hex()[:16]}) joins, at {node.address or 'an unknown address'}")
        elif (old.name, old.address, old.zone, old.weight) != (node.name, node.address, node.zone, node.weight):
            lines.append(f"node {old.name} changes its name, address, zone or weight: {_node_text(node)}")
    lines += _many_change(successor, after)
    lines += _writers(successor.writers, after.writers)
    lines += _members("namespace", [x.name for x in after.namespaces], [x.name for x in successor.namespaces])
    before = {x.name: x for x in after.namespaces}
    for space in successor.namespaces:
        old_space = before.get(space.name)
        if old_space is not None and old_space != space:
            names = [x for x in space.__slots__ if getattr(space, x) != getattr(old_space, x)]
            lines += [f"namespace {space.name}: {x} {getattr(old_space, x)} -> {getattr(space, x)}" for x in names]
    if successor.rights != after.rights:
        lines.append(f"further rights: {len(after.rights)} -> {len(successor.rights)} lines, read them in the file")
    return tuple(lines)


def _many_change(successor: Configuration, after: Configuration) -> list[str]:
    """Where more than f members of a group change at once: fewer than q stay whom those that join can ask."""
    if successor.f < after.f or successor.shards != after.shards:
        return []
    count = 0
    for old, new in zip(after.shard_groups, successor.shard_groups, strict=True):
        keys = {after.nodes[member].key for member in old.members}
        stay = sum(successor.nodes[member].key in keys for member in new.members)
        count += stay < after.q
    if not count:
        return []
    return [
        f"in {count} of {after.shards} shards fewer than {after.q} members stay: who leaves has to stay up until admin "
        "apply says that it may be stopped, else those that join never recover, and what only it held is lost; one "
        "node at a time spares you that"
    ]


def _node_text(node: object) -> str:
    return ", ".join(str(getattr(node, name)) for name in ("name", "address", "zone", "weight"))


def _members(what: str, before: Iterable[str], now: Iterable[str]) -> list[str]:
    old, new = dict.fromkeys(before), dict.fromkeys(now)
    return [f"{what} {x} leaves" for x in old if x not in new] + [f"{what} {x} is new" for x in new if x not in old]


_STATUS_WORDS = {
    "active": "may write",
    "retired": "may write no more; what it wrote stands",
    "revoked": "is revoked: what it wrote is dropped",
}


def _writers(now: Iterable[WriterInfo], before: Iterable[WriterInfo]) -> list[str]:
    lines = []
    old = {writer.key: writer for writer in before}
    for writer in now:
        was = old.pop(writer.key, None)
        name = f"writer {writer.name} ({writer.key.hex()[:16]})"
        if was is None:
            lines.append(f"{name} is new and {_STATUS_WORDS[writer.status]}")
            continue
        if was.name != writer.name:
            lines.append(f"{name} was called {was.name}")
        if was.status != writer.status:
            lines.append(f"{name} {_STATUS_WORDS[writer.status]}")
        if was.limits != writer.limits:
            lines.append(f"{name}: other limits")
    lines += [f"writer {x.name} ({x.key.hex()[:16]}) is listed no more; what it wrote stands" for x in old.values()]
    return lines
