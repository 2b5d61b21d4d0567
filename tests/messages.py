"""Hypothesis strategies for every message that the codec lets through: what a Byzantine peer can make us read.

Mostly nonsense, but nonsense that knows the names of things: slots, stamps, configurations and nodes that exist.
"""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import Certificate, Entry, Grant
from tests import craft
from tests.cluster import START_US, key_of, slot

KEYS = ("a", "b", "c")
TIMES = st.sampled_from([0, 1, START_US, START_US + 1, START_US - 1, (1 << 62) - 1, 1 << 62]) | st.integers(0, 1 << 62)
IDS = st.sampled_from([0, 1, 2, (1 << 63) - 1])
COUNTS = st.sampled_from([-1, 0, 1, 2, 8, 1023, 1024, 1025, 1 << 32, (1 << 63) - 1])
INTS = st.integers(-(1 << 63), (1 << 63) - 1)


class Speech:
    """Strategies of requests and replies around one configuration."""

    def __init__(self, configuration: Configuration) -> None:
        group = configuration.group_of(slot("a"))
        batch = [craft.craft(key, START_US + i) for i, key in enumerate(KEYS)]
        lone = craft.craft("a", START_US + 5, b"lone", writer="w2")
        real = [craft.entry(configuration, c, batch) for c in batch] + [craft.entry(configuration, lone)]
        hashes = st.binary(min_size=32, max_size=32)
        bytes_ = st.binary(max_size=40)
        slots = st.sampled_from([slot(key) for key in KEYS]) | bytes_
        headers = st.sampled_from([e.header for e in real]) | bytes_
        salted = st.sampled_from([e.salted for e in real]) | bytes_
        configurations = st.just(configuration.digest) | hashes
        groups = st.just(group.id) | st.binary(min_size=16, max_size=16)
        writers = st.sampled_from([key_of(w).public for w in ("w1", "w2", "stranger")]) | hashes
        signatures = st.just(bytes(64)) | st.binary(min_size=64, max_size=64)
        paths = st.sampled_from([e.path for e in real]) | bytes_
        positions = st.integers(0, 1023)
        grants = st.builds(Grant, st.integers(-2, 5) | INTS, st.binary(max_size=3), signatures | bytes_)
        any_certificate = st.builds(
            Certificate,
            configurations | bytes_,
            groups | bytes_,
            hashes | bytes_,
            COUNTS | INTS,
            writers | bytes_,
            signatures | bytes_,
            st.lists(grants, max_size=5).map(tuple),
            st.just(b"") | bytes_,
        )
        stamps = st.just(real[0].stamp) | st.binary(min_size=48, max_size=48)
        real_certificates = st.sampled_from([e.certificate for e in real])

        def spoil(entry: Entry, change: dict[str, object]) -> Entry:
            return msgspec.structs.replace(entry, **change)

        changes = st.fixed_dictionaries(
            {},
            optional={
                "header": headers,
                "salted": salted,
                "certificate": real_certificates | any_certificate,
                "position": st.integers(-1, 4) | INTS,
                "path": paths,
            },
        )
        self.entries = st.sampled_from(real) | st.builds(spoil, st.sampled_from(real), changes)
        bundles = st.builds(
            m.Bundle,
            real_certificates | any_certificate,
            st.just(b"") | st.just(b"".join(c.digest for c in batch)) | st.binary(max_size=96),
            st.lists(st.builds(m.Item, st.integers(0, 3) | positions, headers, salted, paths), min_size=1, max_size=4),
        )
        real_requests = st.sampled_from(
            [
                craft.prepare(configuration, batch),
                craft.prepare(configuration, [lone]),
                craft.prepare(configuration, [craft.craft("a", START_US, b"other")]),
                craft.prepare(configuration, [craft.craft("a", (1 << 62) - 1)]),
                craft.commit(configuration, *real),
                craft.commit_batch(configuration, batch),
            ]
        )
        keys = st.sampled_from([key.encode() for key in KEYS]) | bytes_
        places = st.builds(m.Position, st.integers(0, 9) | st.integers(0, (1 << 16) - 1), st.just(b"") | keys)
        self.requests = real_requests | st.one_of(
            st.builds(
                m.Prepare, IDS, configurations, groups, writers, signatures, st.lists(headers, min_size=1, max_size=4)
            ),
            st.builds(m.Commit, IDS, configurations, st.lists(bundles, min_size=1, max_size=3)),
            st.builds(
                m.Read,
                IDS,
                configurations,
                st.lists(slots, min_size=1, max_size=4),
                st.integers(0, 1024),
                st.integers(0, 1024),
            ),
            st.builds(m.ReadFull, IDS, configurations, st.lists(slots, min_size=1, max_size=8)),
            st.builds(m.Report, IDS, configurations, st.integers(0, (1 << 16) - 1), slots),
            st.builds(m.Ping, IDS, configurations),
            st.builds(m.ShardSums, IDS, configurations, st.integers(0, 1 << 15), st.integers(1, 1024)),
            st.builds(m.ShardList, IDS, configurations, st.integers(0, 1 << 15), slots),
            st.builds(m.Outline, IDS, configurations, slots),
            st.builds(m.Evidence, IDS, configurations, st.integers(0, 3)),
            st.builds(m.Witness, IDS, configurations, slots, hashes),
            st.builds(m.Vote, IDS, configurations, groups, headers, salted, signatures, stamps, st.just(b"") | stamps),
            st.builds(m.Lock, IDS, configurations, groups, headers, salted, signatures, stamps, st.just(())),
            st.builds(m.ExactReport, IDS, configurations, st.integers(0, 9), slots),
            st.builds(m.Fields, IDS, configurations, slots, st.binary(min_size=1, max_size=4), slots, bytes_),
            st.builds(
                m.Scan,
                IDS,
                configurations,
                groups,
                st.sampled_from([b"test", b"other"]),
                st.sampled_from([b"", b"a", b"bc"]),
                places,
                st.integers(1, 1024),
            ),
            st.builds(
                m.Put,
                IDS,
                configurations,
                groups,
                writers,
                signatures,
                st.lists(headers, min_size=1, max_size=4),
                st.lists(salted, min_size=1, max_size=4),
                st.booleans(),
            ),
            st.builds(m.Forward, IDS, configurations, st.lists(bundles, min_size=1, max_size=3)),
            st.builds(m.Get, IDS, configurations, st.lists(slots, min_size=1, max_size=4)),
            st.builds(
                m.Changes,
                IDS,
                configurations,
                st.sampled_from([b"test", b"other"]),
                st.sampled_from([b"", b"a", b"bc"]),
                st.booleans(),
                st.sampled_from([0, 1, START_US]),
                st.integers(0, 5),
            ),
        )
        refusals = st.builds(
            m.Refusal,
            st.integers(0, 3) | positions,
            st.integers(0, 9) | INTS,
            TIMES,
            st.none() | self.entries,
            st.text(max_size=5),
        )
        answers = st.builds(m.FullAnswer, st.none() | self.entries, TIMES)
        self.replies = st.one_of(
            st.builds(
                m.PrepareReply,
                IDS,
                TIMES,
                st.sampled_from([b"", b"\x00", b"\x01", b"\x03", b"\xff" * 128]),
                signatures | bytes_,
                st.lists(refusals, max_size=4),
            ),
            st.builds(m.CommitReply, IDS, TIMES, st.binary(max_size=4), st.lists(TIMES, max_size=3)),
            st.builds(
                m.ReadReply,
                IDS,
                TIMES,
                st.sampled_from([bytes(32), bytes(64), real[0].header[:32]]) | st.binary(max_size=96),
                st.lists(st.sampled_from([e.header for e in real] + [e.salted for e in real]) | bytes_, max_size=6),
            ),
            st.builds(m.ReadFullReply, IDS, TIMES, st.lists(answers, max_size=3)),
            st.builds(m.ReportReply, IDS, TIMES, TIMES, st.lists(self.entries, max_size=4), st.booleans()),
            st.builds(m.OutlineReply, IDS, TIMES, st.none() | self.entries, TIMES, st.lists(self.entries), bytes_),
            st.builds(m.FieldsReply, IDS, TIMES, bytes_, st.binary(max_size=64), st.lists(self.entries), st.booleans()),
            st.builds(m.Reject, IDS, TIMES, st.integers(0, 7) | INTS, st.text(max_size=5)),
            st.builds(m.Pong, IDS, TIMES),
            st.builds(m.PutReply, IDS, TIMES, st.binary(max_size=4), st.lists(TIMES, max_size=3), st.text(max_size=5)),
            st.builds(m.ForwardReply, IDS, TIMES, st.binary(max_size=4)),
            st.builds(m.GetReply, IDS, TIMES, st.integers(0, 4), st.lists(bundles, max_size=3), st.booleans()),
            st.builds(
                m.ChangesReply,
                IDS,
                TIMES,
                st.integers(1, 2),
                st.integers(0, 5),
                st.lists(headers, max_size=4),
                st.booleans(),
                st.booleans(),
            ),
            st.integers(0, 4).flatmap(
                lambda count: st.builds(
                    m.ScanReply,
                    IDS,
                    TIMES,
                    st.lists(keys, min_size=count, max_size=count),
                    st.sampled_from([bytes(32 * count), b"\x01" * 32 * count]) | st.binary(max_size=96),
                    st.none() | places,
                )
            ),
        )
