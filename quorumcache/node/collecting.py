"""How a process that runs a node or a gateway collects garbage: seldom, and not what it began with.

Entries are many and live long, requests are many and live for a moment, and none form cycles: the collector's walks
over them find nothing, cost much, and keep all sessions waiting. It must not know nodes.
"""

from __future__ import annotations

import gc
from typing import Final

GC_THRESHOLDS: Final = (100_000, 50, 100)


def collect_seldom() -> None:
    """From now on."""
    gc.set_threshold(*GC_THRESHOLDS)


def keep_what_is_there() -> None:
    """What there is now stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
