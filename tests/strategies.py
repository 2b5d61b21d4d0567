"""What hypothesis draws: messages within and at their bounds, headers, certificates of no validity."""

from hypothesis import strategies as st

from quorumcache.core import messages as m
from quorumcache.core.evidence import (
    DoubleGrant,
    Equivocation,
    GrantedHeader,
    Retraction,
    SignedHeader,
    Witnessed,
)
from quorumcache.core.model import DELETE, Certificate, Entry, Grant, encode_header, slot_of, stamp_of

hashes = st.binary(min_size=32, max_size=32)
group_ids = st.binary(min_size=16, max_size=16)
signatures = st.binary(min_size=64, max_size=64)
small = st.binary(max_size=40)
ids = st.integers(0, (1 << 63) - 1)
times = st.integers(0, 1 << 62)
positions = st.integers(0, 1023)

slots = st.builds(
    slot_of,
    st.binary(min_size=1, max_size=64),
    st.one_of(st.binary(min_size=1, max_size=20), st.binary(min_size=1024, max_size=1024)),
    st.one_of(st.just(b""), st.binary(max_size=20), st.binary(min_size=1024, max_size=1024)),
)
stamps = st.builds(stamp_of, st.integers(0, (1 << 62) - 1), hashes, st.integers(0, (1 << 64) - 1))
puts = st.builds(
    encode_header,
    slots,
    stamps,
    st.just(0),
    hashes,
    st.integers(0, 1 << 20),
    st.integers(0, (1 << 62) - 1),
    st.one_of(small, st.binary(min_size=4096, max_size=4096)),
)
deletes = st.builds(encode_header, slots, stamps, st.just(DELETE), hashes, st.just(0), st.just(0), small)
headers = st.one_of(puts, deletes)

proofs_of_ballots = st.integers(1, 8).flatmap(lambda n: st.binary(min_size=68 + 32 * n, max_size=68 + 32 * n))
grants = st.builds(Grant, st.integers(0, 999), small, signatures | proofs_of_ballots)
certificates = st.builds(
    Certificate,
    hashes,
    group_ids,
    hashes,
    st.integers(1, 1024),
    hashes,
    signatures,
    st.lists(grants, max_size=4).map(tuple),
    st.just(b"") | stamps,
)
ballots = st.binary(min_size=48, max_size=48)
some_grants = st.lists(grants, max_size=4).map(tuple)
paths = st.integers(0, 10).flatmap(lambda n: st.binary(min_size=32 * n, max_size=32 * n))
entries = st.builds(Entry, headers, small, certificates, positions, paths)
details = st.text(max_size=200)
locks = st.builds(m.Locked, headers, small, signatures, ballots, some_grants)
refusals = st.builds(m.Refusal, positions, st.integers(1, 8), times, st.none() | entries, details)
items = st.builds(m.Item, positions, headers, small, paths)
bundles = st.builds(m.Bundle, certificates, small, st.lists(items, min_size=1, max_size=3))

places = st.builds(m.Position, st.integers(0, (1 << 16) - 1), small)

numbers = st.integers(-(1 << 63), (1 << 63) - 1)
some = st.binary(max_size=64)
signed_headers = st.builds(SignedHeader, headers, some, numbers, numbers, paths, some)
granted_headers = st.builds(GrantedHeader, headers, some, numbers, numbers, paths, small, some)
witnesseds = st.builds(Witnessed, some, some, times, times, slots, headers, some)
proofs = st.one_of(
    st.builds(Equivocation, some, signed_headers, signed_headers),
    st.builds(DoubleGrant, some, some, granted_headers, granted_headers),
    st.builds(Retraction, some, some, witnesseds, witnesseds),
)

requests = st.one_of(
    st.builds(m.Prepare, ids, hashes, group_ids, hashes, signatures, st.lists(headers, min_size=1, max_size=3)),
    st.builds(m.Commit, ids, hashes, st.lists(bundles, min_size=1, max_size=2)),
    st.builds(m.Read, ids, hashes, st.lists(slots, min_size=1, max_size=3), st.integers(0, 1024), st.integers(0, 1024)),
    st.builds(m.ReadFull, ids, hashes, st.lists(slots, min_size=1, max_size=8)),
    st.builds(m.Report, ids, hashes, st.integers(0, (1 << 16) - 1), slots),
    st.builds(m.Ping, ids, hashes),
    st.builds(m.ShardSums, ids, hashes, st.integers(0, (1 << 16) - 1), st.integers(1, 1024)),
    st.builds(m.ShardList, ids, hashes, st.integers(0, (1 << 16) - 1), slots),
    st.builds(m.Outline, ids, hashes, slots),
    st.builds(m.Fields, ids, hashes, slots, st.binary(min_size=1, max_size=4), slots, small),
    st.builds(m.Scan, ids, hashes, group_ids, st.binary(min_size=1, max_size=64), small, places, st.integers(1, 1024)),
    st.builds(m.Evidence, ids, hashes, st.integers(0, 1 << 20)),
    st.builds(m.Witness, ids, hashes, slots, hashes),
    st.builds(
        m.Put,
        ids,
        hashes,
        group_ids,
        hashes,
        signatures,
        st.lists(headers, min_size=1, max_size=3),
        st.lists(small, min_size=1, max_size=3),
        st.booleans(),
    ),
    st.builds(m.Forward, ids, hashes, st.lists(bundles, min_size=1, max_size=2)),
    st.builds(m.Get, ids, hashes, st.lists(slots, min_size=1, max_size=3)),
    st.builds(m.Changes, ids, hashes, st.binary(min_size=1, max_size=64), small, st.booleans(), times, times),
    st.builds(m.Vote, ids, hashes, group_ids, headers, small, signatures, ballots, st.just(b"") | ballots, some_grants),
    st.builds(m.Lock, ids, hashes, group_ids, headers, small, signatures, ballots, some_grants),
    st.builds(m.ExactReport, ids, hashes, st.integers(0, (1 << 16) - 1), slots),
)
replies = st.one_of(
    st.builds(m.PrepareReply, ids, times, small, st.just(b"") | signatures, st.lists(refusals, max_size=3)),
    st.builds(m.CommitReply, ids, times, small, st.lists(times, max_size=3)),
    st.builds(m.ReadReply, ids, times, small, st.lists(small, max_size=4)),
    st.builds(m.ReadFullReply, ids, times, st.lists(st.builds(m.FullAnswer, st.none() | entries, times), max_size=3)),
    st.builds(m.ShardSumsReply, ids, times, small),
    st.builds(m.ShardListReply, ids, times, st.lists(st.builds(m.Named, slots, hashes, times)), st.booleans()),
    st.builds(m.ReportReply, ids, times, times, st.lists(entries, max_size=2), st.booleans(), st.booleans()),
    st.builds(m.OutlineReply, ids, times, st.none() | entries, times, st.lists(entries, max_size=2), small),
    st.builds(m.FieldsReply, ids, times, st.binary(max_size=48), small, st.lists(entries, max_size=2), st.booleans()),
    st.builds(m.Reject, ids, times, st.integers(0, 9), st.text(max_size=400)),
    st.builds(m.Pong, ids, times),
    st.builds(m.EvidenceReply, ids, times, st.lists(proofs, max_size=3), st.integers(0, 1 << 20)),
    st.builds(m.WitnessReply, ids, times, st.binary(min_size=16, max_size=16), times, headers, signatures),
    st.builds(m.PutReply, ids, times, small, st.lists(times, max_size=3), details),
    st.builds(m.ForwardReply, ids, times, small),
    st.builds(m.GetReply, ids, times, st.integers(0, 1024), st.lists(bundles, max_size=2), st.booleans()),
    st.builds(
        m.ChangesReply,
        ids,
        times,
        st.integers(1, 1 << 62),
        times,
        st.lists(headers, max_size=3),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        m.BallotReply,
        ids,
        times,
        st.integers(0, 10),
        st.just(b"") | signatures | proofs_of_ballots,
        times,
        st.just(b"") | ballots,
        st.none() | entries,
        st.none() | locks,
        details,
    ),
    st.builds(
        m.ExactReportReply,
        ids,
        times,
        times,
        st.lists(st.builds(m.ExactHeld, st.none() | entries, st.none() | locks), max_size=2),
        st.booleans(),
    ),
    st.builds(m.ScanReply, ids, times, st.lists(small, max_size=4), small, st.none() | places),
)
