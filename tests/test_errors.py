"""The tree of errors says whose fault it is and whether anything happened, between processes too."""

import copy
import inspect
import pickle

import pytest

from quorumcache import errors

ALL = [
    value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, errors.QuorumCacheError)
]


def make(kind: type[errors.QuorumCacheError]) -> errors.QuorumCacheError:
    if issubclass(kind, errors.PeerMisbehaved):
        return kind("what happened", node="n3")
    return kind("what happened")


@pytest.mark.parametrize("kind", ALL)
def test_every_error_says_what_to_do(kind: type[errors.QuorumCacheError]) -> None:
    own = vars(kind).get("__doc__")
    assert own, "an error without words of its own leaves its reader alone"
    assert str(make(kind)) == "what happened"


@pytest.mark.parametrize("kind", ALL)
def test_errors_survive_the_way_between_processes(kind: type[errors.QuorumCacheError]) -> None:
    error = make(kind)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert getattr(twin, "node", None) == getattr(error, "node", None)


def test_nothing_happened_and_outcome_unknown_are_never_caught_as_one() -> None:
    nothing_happened = [kind for kind in ALL if issubclass(kind, errors.Unavailable)]
    assert {kind.__name__ for kind in nothing_happened} == {
        "Unavailable",
        "DeadlineExceeded",
        "ConfigurationMismatch",
        "QueueFull",
    }
    assert not issubclass(errors.OutcomeUnknown, errors.Unavailable)
    assert not issubclass(errors.Unavailable, errors.OutcomeUnknown)


def test_each_error_has_exactly_one_culprit() -> None:
    culprits = (
        errors.Misuse,
        errors.PermissionDenied,
        errors.CannotOpen,
        errors.Unavailable,
        errors.OutcomeUnknown,
        errors.StoreFailed,
        errors.DiskFailed,
        errors.PeerMisbehaved,
    )
    for kind in ALL:
        if kind is not errors.QuorumCacheError:
            assert sum(issubclass(kind, culprit) for culprit in culprits) == 1, kind


def test_misbehaviour_names_the_node() -> None:
    error = errors.WrongNodeKey("127.0.0.1:7101 answered with another key", node="n2")
    assert error.node == "n2"
    with pytest.raises(TypeError):
        errors.ProtocolViolation("a node has to be named")  # type: ignore[call-arg]
