"""How much memory a node's entries and promises take, in all and per namespace, and which keys have to give way.

Belongs here: sums, bounds, and for each pool of memory its policy of eviction. A namespace with a quota is a pool of
its own; all others share one. Keys are named by the slot of their empty field, and cost what all that hangs on them
costs. Must not know entries, stamps or floors: what may go at all, the caller decides (slots.py).

What entries of one batch share (certificate, leaves) is counted once for the node, and once in every pool that has any
of them: so nobody can have another namespace pay for what keeps a batch in memory. Promises have a budget of their own:
a flood of them cannot drive out entries.

The constants are what objects cost beside the bytes in them, fitted to the growth of real processes (bench/memory.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import merkle
from quorumcache.core.ballots import SIGNATURE_BYTES
from quorumcache.core.certificate import Batch
from quorumcache.core.config import Configuration
from quorumcache.core.eviction import USES_MAX, Place, Policy
from quorumcache.core.model import BATCH_COUNT_MAX, HEADER_BYTES_MAX, Certificate

if TYPE_CHECKING:
    from quorumcache.core.held import Promise

#: What one entry costs beside its value and salt, and its header twice (the slot is held apart, too).
ENTRY_OVERHEAD_BYTES: Final = 470
#: What an entry costs beside the bytes of its path, where its batch came without leaves.
PATH_OVERHEAD_BYTES: Final = 33
#: What an entry costs besides that has to go at a time: the note of when.
REAP_OVERHEAD_BYTES: Final = 240
#: What a batch costs beside its leaves, counts and grants: the objects, digests and keys of its certificate.
BATCH_OVERHEAD_BYTES: Final = 640
#: What one grant costs beside its bitmap: the objects, the signature.
GRANT_OVERHEAD_BYTES: Final = 208
#: What a promise costs beside its header, three times (parsed), and what each batch costs that has promises.
PROMISE_OVERHEAD_BYTES: Final = 720
PROMISED_BATCH_OVERHEAD_BYTES: Final = 320
#: The most that one promise can cost.
PROMISE_BYTES_MAX: Final = (
    PROMISE_OVERHEAD_BYTES + PROMISED_BATCH_OVERHEAD_BYTES + 3 * HEADER_BYTES_MAX + 32 * BATCH_COUNT_MAX
)
#: Of the node's memory, the namespaces without quota count on at least one part in so many, whatever quotas promise.
_COMMON_PART_MIN: Final = 8


class Pool:
    """Memory that keys compete for. `bytes_max` is the namespace's quota, 0 where there is none. `look_again_us`:
    before that, looking for something to evict is not worth it."""

    __slots__ = ("bytes_max", "bytes_used", "look_again_us", "namespace", "number", "policy")

    def __init__(self, number: int, namespace: str, bytes_max: int, places: dict[bytes, Place]) -> None:
        self.number = number
        self.namespace = namespace
        self.bytes_max = bytes_max
        self.bytes_used = 0
        self.look_again_us = 0
        self.policy = Policy(places)


class Memory:
    """What one node holds costs. `bytes_used` by entries never passes `bytes_max` where callers ask `fits` first; nor
    `promises_bytes` `promises_bytes_max`, where they ask `fits_promise`."""

    __slots__ = (
        "_batches",
        "_by_namespace",
        "_promised",
        "_quotas_bytes",
        "_shares",
        "bytes_max",
        "bytes_used",
        "places",
        "pools",
        "promises_bytes",
        "promises_bytes_max",
    )

    def __init__(self, configuration: Configuration, bytes_max: int, promises_bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_used = 0
        self.promises_bytes = 0
        self.promises_bytes_max = promises_bytes_max
        #: The batches of several entries that are here, by their certificates.
        self._batches: dict[Certificate, Batch] = {}
        #: Leaves of batches with open promises, and how many those are: one object for all of them.
        self._promised: dict[bytes, list[Any]] = {}
        #: Every key that is here, in whichever pool.
        self.places: dict[bytes, Place] = {}
        #: The pool of all namespaces without quota, and then one for each that has one.
        self.pools = [Pool(0, "", 0, self.places)]
        self._by_namespace: dict[bytes, Pool] = {}
        for info in configuration.namespaces:
            if info.quota_bytes:
                name = info.name.encode("ascii")
                pool = Pool(len(self.pools), info.name, info.quota_bytes, self.places)
                self.pools.append(pool)
                self._by_namespace[bytes((len(name),)) + name] = pool
        #: Where there are quotas: how many entries of a batch are in a pool.
        self._shares: dict[tuple[Batch, int], int] = {}
        self._quotas_bytes = sum(pool.bytes_max for pool in self.pools)

    def pool_of(self, key: bytes) -> Pool:
        """The pool that the key is in."""
        if not self._by_namespace:
            return self.pools[0]
        return self._by_namespace.get(key[: 1 + key[0]], self.pools[0])

    def touched(self, keys: Iterable[bytes]) -> None:
        """These keys were read. Once for each read that a node answers, so it is kept to a few steps."""
        find = self.places.get
        for key in keys:
            place = find(key)
            if place is not None and place.uses < USES_MAX:
                place.uses += 1

    # --- sums ---

    def charge(self, key: bytes, change: int) -> None:
        """So many bytes more, or less, hang on the key; it may be new."""
        pool = self.pool_of(key)
        if key in self.places:
            pool.policy.resized(key, change)
        else:
            pool.policy.added(key, change)
        pool.bytes_used += change
        self.bytes_used += change

    def written_again(self, key: bytes, change: int) -> None:
        """What the key has was replaced, and costs so many bytes more, or less: mostly none. It counts as used."""
        place = self.places[key]
        if place.uses < USES_MAX:
            place.uses += 1
        if change:
            self.charge(key, change)

    def forget(self, key: bytes, *, evicted: bool = False) -> None:
        """Nothing hangs on the key any more. `evicted`: for want of memory."""
        pool = self.pool_of(key)
        cost = self.places[key].cost
        if evicted:
            pool.policy.evicted(key)
        else:
            pool.policy.removed(key)
        pool.bytes_used -= cost
        self.bytes_used -= cost

    def hold(self, batch: Batch, key: bytes) -> None:
        """One more entry, of this key, shares the batch."""
        if batch.held_count == 0:
            self.bytes_used += batch_cost(batch)
            if batch.certificate.count > 1:
                self._batches.setdefault(batch.certificate, batch)
        batch.held_count += 1
        if self._by_namespace:
            pool = self.pool_of(key)
            count = self._shares.get((batch, pool.number), 0)
            if count == 0:
                pool.bytes_used += batch_cost(batch)
            self._shares[batch, pool.number] = count + 1

    @property
    def has_quotas(self) -> bool:
        """Whether any namespace has memory of its own."""
        return bool(self._by_namespace)

    def hold_all(self, batch: Batch, count: int) -> None:
        """As `hold`, of so many entries, where there are no quotas."""
        if batch.held_count == 0:
            self.bytes_used += batch_cost(batch)
            if batch.certificate.count > 1:
                self._batches.setdefault(batch.certificate, batch)
        batch.held_count += count

    def release(self, batch: Batch, key: bytes) -> bool:
        """One entry less, of this key, shares the batch; whether it was the last."""
        batch.held_count -= 1
        if batch.held_count == 0:
            self.bytes_used -= batch_cost(batch)
            if self._batches.get(batch.certificate) is batch:
                del self._batches[batch.certificate]
        if self._by_namespace:
            pool = self.pool_of(key)
            count = self._shares.pop((batch, pool.number)) - 1
            if count:
                self._shares[batch, pool.number] = count
            else:
                pool.bytes_used -= batch_cost(batch)
        return batch.held_count == 0

    def batch_with(self, certificate: Certificate) -> Batch | None:
        """The batch with this very certificate, where it has several headers and an entry of it is here."""
        return self._batches.get(certificate) if certificate.count > 1 else None

    def promised(self, header: bytes, leaves: bytes) -> bytes:
        """One more promise, of this header, of the batch with these leaves; returns the leaves for it to keep. They are
        shared by all promises of a batch, even one that was sent again: each could pin 32 KiB otherwise."""
        cost = PROMISE_OVERHEAD_BYTES + 3 * len(header)
        shared = self._promised.get(leaves)
        if shared is None:
            shared = self._promised[leaves] = [leaves, 0]
            cost += PROMISED_BATCH_OVERHEAD_BYTES + len(leaves)
        shared[1] += 1
        self.promises_bytes += cost
        kept: bytes = shared[0]
        return kept

    def unpromised(self, header: bytes, leaves: bytes) -> None:
        """That promise is open no more."""
        cost = PROMISE_OVERHEAD_BYTES + 3 * len(header)
        shared = self._promised[leaves]
        shared[1] -= 1
        if shared[1] == 0:
            del self._promised[leaves]
            cost += PROMISED_BATCH_OVERHEAD_BYTES + len(leaves)
        self.promises_bytes -= cost

    def promised_all(self, leaves: bytes, headers: Sequence[bytes]) -> bytes:
        """As `promised`, of all these headers of the batch."""
        cost = len(headers) * PROMISE_OVERHEAD_BYTES + 3 * sum(map(len, headers))
        shared = self._promised.get(leaves)
        if shared is None:
            shared = self._promised[leaves] = [leaves, 0]
            cost += PROMISED_BATCH_OVERHEAD_BYTES + len(leaves)
        shared[1] += len(headers)
        self.promises_bytes += cost
        kept: bytes = shared[0]
        return kept

    def unpromised_all(self, promises: Sequence[Promise]) -> None:
        """As `unpromised`, of all these."""
        of_batches: dict[bytes, list[int]] = {}
        for promise in promises:
            sums = of_batches.get(promise.leaves)
            if sums is None:
                sums = of_batches[promise.leaves] = [0, 0]
            sums[0] += 1
            sums[1] += len(promise.header.raw)
        for leaves, (count, size) in of_batches.items():
            self.promises_bytes -= count * PROMISE_OVERHEAD_BYTES + 3 * size
            shared = self._promised[leaves]
            shared[1] -= count
            if shared[1] == 0:
                del self._promised[leaves]
                self.promises_bytes -= PROMISED_BATCH_OVERHEAD_BYTES + len(leaves)

    def take_over(self, before: Memory) -> bool:
        """Have the keys of `before`, which is given up, with their costs, uses and places in the order of eviction, and
        its promises. Whether all is counted: where other namespaces have quotas than before, keys begin anew in the
        order in which they came, and batches are the caller's to `hold` again. Before anything is here."""
        self._promised, self.promises_bytes = before._promised, before.promises_bytes
        if [pool.namespace for pool in self.pools] == [pool.namespace for pool in before.pools]:
            for pool, old in zip(self.pools, before.pools, strict=True):
                pool.policy, pool.bytes_used = old.policy, old.bytes_used
            self.places, self._shares, self.bytes_used = before.places, before._shares, before.bytes_used
            return True
        for key, place in before.places.items():
            self.charge(key, place.cost)
            self.places[key].uses = place.uses
        return False

    # --- room ---

    def fits_promise(self) -> bool:
        """Whether there is room for any one promise."""
        return self.promises_bytes + PROMISE_BYTES_MAX <= self.promises_bytes_max

    def fits_promises(self, count: int, headers_bytes: int) -> bool:
        """Whether `fits_promise` would hold before each of so many promises of one batch, were it asked each time."""
        cost = count * (PROMISE_OVERHEAD_BYTES + 32) + 3 * headers_bytes + PROMISED_BATCH_OVERHEAD_BYTES
        return self.promises_bytes + cost + PROMISE_BYTES_MAX <= self.promises_bytes_max

    def fits_whatever(self, cost: int) -> bool:
        """Whether any key may cost so many bytes more; False also where there are quotas, to be asked for each key."""
        return not self._by_namespace and self.bytes_used + cost <= self.bytes_max

    def fits(self, key: bytes, cost: int) -> bool:
        """Whether the key may cost so many bytes more."""
        if self.bytes_used + cost > self.bytes_max:
            return False
        if not self._by_namespace:
            return True
        pool = self.pool_of(key)
        return not pool.bytes_max or pool.bytes_used + cost <= pool.bytes_max

    def could_fit(self, key: bytes, cost: int) -> bool:
        """Whether it would fit if nothing else were here: if not, nothing needs to go for it."""
        most = self.pool_of(key).bytes_max or self.bytes_max
        return cost <= min(most, self.bytes_max)

    def why_full(self, key: bytes, cost: int) -> str:
        """Why it does not fit, for whoever wants to write it."""
        pool = self.pool_of(key)
        if pool.bytes_max and pool.bytes_used + cost > pool.bytes_max:
            return f"namespace {pool.namespace} is at its quota, and nothing in it is old enough to evict"
        return "the node is full, and nothing in it is old enough to evict"

    def givers(self, key: bytes, cost: int) -> Iterator[Pool]:
        """Who has to give way so that the key can cost so much more: its own namespace where that is at its quota, else
        whoever uses most of what it may use."""
        if not self._by_namespace:
            yield self.pools[0]
            return
        pool = self.pool_of(key)
        if pool.bytes_max and pool.bytes_used + cost > pool.bytes_max:
            yield pool
            return
        common = max(self.bytes_max - self._quotas_bytes, self.bytes_max // _COMMON_PART_MIN)
        # Quotas that come to more than the memory count in proportion.
        scale = min(1.0, (self.bytes_max - common) / self._quotas_bytes)
        yield from sorted(
            (pool for pool in self.pools if pool.policy.count),
            key=lambda pool: pool.bytes_used / max(1.0, scale * pool.bytes_max if pool.number else common),
            reverse=True,
        )


def batch_cost(batch: Batch) -> int:
    """What the entries of a batch share, for as long as one of them is here: a writer could make one small entry pin
    the 1,024 leaves and wide bitmaps of its batch, so that counts too."""
    grants = batch.certificate.grants
    each = GRANT_OVERHEAD_BYTES + (len(grants[0].bitmap) if grants else 0)
    upper = merkle.upper_bytes(len(batch.leaves) >> 5)  # Whether it was needed yet or not: a sum must not change.
    proofs = 0
    if batch.certificate.ballot:
        # In exact namespaces there may be paths beside signatures.
        proofs = sum(len(grant.signature) - SIGNATURE_BYTES for grant in grants)
    return BATCH_OVERHEAD_BYTES + len(batch.leaves) + upper + len(batch.counts) + len(grants) * each + proofs


def entry_cost(header_bytes: int, salted_bytes: int, *, is_mortal: bool) -> int:
    """What one entry costs by itself. `is_mortal`: it expires, or is a tombstone."""
    return ENTRY_OVERHEAD_BYTES + 2 * header_bytes + salted_bytes + (REAP_OVERHEAD_BYTES if is_mortal else 0)
