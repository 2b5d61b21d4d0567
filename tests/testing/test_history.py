"""The check of histories finds what it is for: each violation, planted, is found, and a clean history passes."""

from quorumcache.core.model import PUT, encode_header, slot_of, stamp_of, value_hash_of
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Missed, Written
from quorumcache.testing.history import History

ANN, BOB = b"a" * 32, b"b" * 32


def _found(time: int, value: bytes, writer: bytes = ANN) -> Found:
    salted = bytes(16) + value
    stamp = stamp_of(time, writer, 0)
    header = encode_header(slot_of(b"n", b"k"), stamp, PUT, value_hash_of(salted), len(value), 0)
    return Found(header, salted)


def _wrote(history: History, time: int, value: bytes, writer: bytes = ANN) -> None:
    began = history.announce("k", value, writer)
    history.end("k", began, Written(stamp_of(time, writer, 0)))


def _read(history: History, outcome: Found | Missed) -> None:
    history.end("k", history.begin(), outcome)


def test_a_clean_history_passes_and_misses_are_counted() -> None:
    history = History()
    _wrote(history, 1, b"one")
    _read(history, _found(1, b"one"))
    began = history.begin()
    _wrote(history, 2, b"two", BOB)
    # Both were under way at once: either value may be read.
    history.end("k", began, _found(1, b"one"))
    _read(history, _found(2, b"two", BOB))
    _read(history, Missed(3))
    verdict = history.check()
    assert verdict.is_clean
    assert (verdict.reads, verdict.reads_found, verdict.reads_missed, verdict.writes) == (4, 3, 1, 2)


def test_a_read_older_than_a_completed_write_is_stale() -> None:
    history = History()
    _wrote(history, 1, b"one")
    _wrote(history, 2, b"two")
    _read(history, _found(1, b"one"))
    verdict = history.check()
    assert (verdict.stale, verdict.is_clean) == (1, False)


def test_a_read_older_than_a_completed_read_is_stale() -> None:
    history = History()
    _wrote(history, 1, b"one")
    history.announce("k", b"two", BOB)  # Never heard to be complete, yet read.
    _read(history, _found(2, b"two", BOB))
    _read(history, _found(1, b"one"))
    assert history.check().stale == 1


def test_values_that_nobody_or_another_wrote_are_forged() -> None:
    history = History()
    _wrote(history, 1, b"one")
    _read(history, _found(1, b"none"))
    _read(history, _found(1, b"one", BOB))
    began = history.announce("other", b"elsewhere", ANN)
    history.end("other", began, Written(stamp_of(2, ANN, 0)))
    _read(history, _found(2, b"elsewhere"))
    verdict = history.check()
    assert verdict.forged == 3
    assert len(verdict.examples) >= 3


def test_two_values_under_one_stamp_are_found() -> None:
    history = History()
    history.announce("k", b"one", ANN)
    history.announce("k", b"two", ANN)
    _read(history, _found(5, b"one"))
    _read(history, _found(5, b"two"))
    assert history.check().split == 1


def test_failures_are_counted_and_shown() -> None:
    history = History()
    history.end("k", history.begin(), Failed(UNAVAILABLE, "nobody home"))
    verdict = history.check()
    assert verdict.failed == 1
    assert "nobody home" in verdict.examples[0]
