"""Whether the machine itself stood still during a test: a virtual one may get no processor for seconds, and then
operations end as they should when nobody answers in time, which a test of something else takes for a failure.

Such a test is skipped, with the reason; only for the errors that say so, and only where a clock was seen to jump.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Final

from quorumcache.errors import OutcomeUnknown, Unavailable

#: How often the clock is looked at, and from what jump on the machine stood still.
LOOK_S: Final = 0.05
JUMP_S: Final = 0.7
_WORDS: Final = re.compile(r"\b(OUTCOMEUNKNOWN|UNAVAILABLE)\b")


class Watch:
    """Looks at the clock from a thread of its own."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="standstill", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        before_s = time.monotonic()
        while not self._end.wait(LOOK_S):
            now_s = time.monotonic()
            self._longest_s = max(self._longest_s, now_s - before_s - LOOK_S)
            before_s = now_s

    def longest_s(self) -> float:
        """The longest jump since this was asked last, in seconds."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join()


def is_excused(error: BaseException, longest_s: float) -> bool:
    """Whether a standstill of so long explains that a test failed so."""
    if longest_s < JUMP_S:
        return False
    if isinstance(error, BaseExceptionGroup):
        return all(is_excused(each, longest_s) for each in error.exceptions)
    return isinstance(error, Unavailable | OutcomeUnknown) or (
        type(error).__name__ == "ResponseError" and _WORDS.search(str(error)) is not None
    )
