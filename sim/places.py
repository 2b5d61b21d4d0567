"""Who is where, when configurations change: a node's place in one says nothing of its place in the next.

The network knows addresses, which stay; messages and the core name nodes by their places in a configuration. A `Port`
is the network as one process sees it, under the configuration that it works under. It must not know what messages mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from sim.network import Network

#: From here on: nodes that have no place in the own configuration, by their addresses.
FOREIGN: Final = 100_000


class Directory:
    """The addresses of all nodes, by their keys, and the other way round."""

    def __init__(self, keys: list[bytes]) -> None:
        self.addresses = {key: address for address, key in enumerate(keys)}
        self.keys = keys

    def address_in(self, configuration: Configuration, place: int) -> int:
        """The address of the node at this place in a configuration; -1 where there is none."""
        nodes = configuration.nodes
        return self.addresses[nodes[place].key] if 0 <= place < len(nodes) else -1

    def place_in(self, configuration: Configuration, address: int) -> int:
        """The place in a configuration of the process at this address; -1 where it has none."""
        info = configuration.node_by_key(self.keys[address]) if address < len(self.keys) else None
        return -1 if info is None else info.index


class Port:
    """The network of one process: nodes of `configuration` are named by their places in it, nodes beyond these by
    FOREIGN + address, all others (whose addresses come after the nodes') by their addresses."""

    def __init__(self, network: Network, directory: Directory, address: int, configuration: Configuration) -> None:
        self.configuration = configuration
        self.directory = directory
        self.address = address
        #: Where the message comes from that is being received.
        self.source = -1
        self._network = network
        self._receive: Callable[[int, Any], None] = lambda _source, _message: None

    def attach(self, _process: int, receive: Callable[[int, Any], None]) -> None:
        """Have messages given to `receive(sender, message)`."""
        self._receive = receive
        self._network.attach(self.address, self._deliver)

    def _deliver(self, source: int, message: Any) -> None:
        self.source = source
        seen = source
        if source < len(self.directory.keys):
            seen = self.directory.place_in(self.configuration, source)
            if seen < 0:
                seen = FOREIGN + source
        self._receive(seen, message)

    def send(self, _source: int, target: int, message: m.Request | m.Reply, extra_us: int = 0) -> None:
        """Send a message; to nobody where the configuration has no such place."""
        if target >= FOREIGN:
            address = target - FOREIGN
        elif target >= len(self.directory.keys):
            address = target
        else:
            address = self.directory.address_in(self.configuration, target)
        if address >= 0:
            self._network.send(self.address, address, message, extra_us)

    def send_in(self, configuration: Configuration, place: int, message: m.Request | m.Reply) -> None:
        """Send a message to the node at this place in another configuration."""
        address = self.directory.address_in(configuration, place)
        if address >= 0:
            self._network.send(self.address, address, message)

    def key_of(self, seen: int) -> bytes | None:
        """The key of a node that a message came from; None for all others."""
        if seen >= FOREIGN:
            return self.directory.keys[seen - FOREIGN]
        if seen < len(self.configuration.nodes):
            return self.configuration.nodes[seen].key
        return None
