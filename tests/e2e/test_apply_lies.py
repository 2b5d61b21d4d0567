"""Decision 0022: whoever brings a cluster to its next epoch believes seals, and no node's word."""

from __future__ import annotations

from pathlib import Path

from quorumcache.core import amend
from quorumcache.core import messages as m
from quorumcache.core.config import SignedConfiguration
from quorumcache.errors import ConfigurationError
from tests.e2e.test_epochs import live


async def test_a_liar_that_says_the_next_epoch_has_begun_begins_none(tmp_path: Path) -> None:
    """`admin apply` would put a configuration in the cluster file's place that nobody is in."""
    async with live(tmp_path) as cluster:
        first, *others = cluster.running.values()
        handle = first.membership.handle

        def lie(request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply:
            if isinstance(request, m.SealEpoch):
                return m.SealReply(request.id, now_us, [], True)
            return handle(request, now_us, client)

        def refuse(_successor: SignedConfiguration, _now_us: int) -> None:
            raise ConfigurationError("the disk is full")

        first.membership.handle = lie  # type: ignore[method-assign]
        for node in others:
            node.membership.seal = refuse  # type: ignore[method-assign]
        after = amend.retire_writer(cluster.configuration, "bob")
        progress = await cluster.change(after, timeout_s=1.0)
        assert progress.begun == set()
        assert len(progress.refused) == 3
