"""What a client tells of its operations to who wants to follow them; for OpenTelemetry where that is installed.

It must not know keys or values: they may be anybody's secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from quorumcache.errors import Misuse
from quorumcache.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class Trace(Protocol):
    """Told of each operation."""

    def operation(self, name: str, namespace: str, keys: int) -> AbstractContextManager[Callable[[str], None]]:
        """Entered when an operation begins ("read", "write", "read_many", "write_many", "load") and left when it ends,
        with its exception if there is one. What it gives is called with how the operation ended: "found", "missed",
        "written", "loaded", "unavailable", "unknown", "denied", "mismatch", or "mixed"."""


class OpenTelemetry:
    """A `Trace` that makes a span of each operation: `client.namespace(trace=OpenTelemetry())`.

    Spans are of kind CLIENT, named as "quorumcache read", with the attributes `db.system.name`, `db.namespace`,
    `db.operation.name`, `db.operation.batch.size` and `quorumcache.outcome`; never with keys or values. Needs
    `pip install "quorumcache[opentelemetry]"`; what becomes of the spans, the application's SDK decides.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """`provider`: where spans go; the application's own unless given. Raises Misuse without OpenTelemetry."""
        try:
            from opentelemetry import trace
        except ImportError:
            raise Misuse('tracing needs OpenTelemetry: pip install "quorumcache[opentelemetry]"') from None
        self._kind = trace.SpanKind.CLIENT
        self._failed = trace.StatusCode.ERROR
        self._tracer = trace.get_tracer("quorumcache", VERSION, provider)

    @contextmanager
    def operation(self, name: str, namespace: str, keys: int) -> Iterator[Callable[[str], None]]:
        """See `Trace.operation`."""
        attributes: dict[str, str | int] = {
            "db.system.name": "quorumcache",
            "db.namespace": namespace,
            "db.operation.name": name,
        }
        if name.endswith("_many"):
            attributes["db.operation.batch.size"] = keys
        with self._tracer.start_as_current_span(f"quorumcache {name}", kind=self._kind, attributes=attributes) as span:

            def ended(word: str) -> None:
                span.set_attribute("quorumcache.outcome", word)
                if word in ("unavailable", "unknown", "denied", "mismatch"):
                    span.set_status(self._failed, word)

            yield ended
