"""A session with one node by hand: what a client does, in a test's control."""

from __future__ import annotations

import os

import aiohttp

from quorumcache.core.config import Configuration, NodeInfo
from quorumcache.net.tls import NodePin, binding_to
from quorumcache.wire.handshake import Channel, Opening, proof
from quorumcache.wire.keys import SigningKey


async def websocket_to(
    http: aiohttp.ClientSession, configuration: Configuration, node: NodeInfo | None = None
) -> tuple[aiohttp.ClientWebSocketResponse, bytes]:
    """A WebSocket to a node (the first unless given) before anything was said on it, and what it is bound to."""
    node = node or configuration.nodes[0]
    if not configuration.tls:
        return await http.ws_connect(f"http://{node.address}/v1/session", max_msg_size=16 << 20), b""
    pin = NodePin(node)
    websocket = await http.ws_connect(f"https://{node.address}/v1/session", max_msg_size=16 << 20, ssl=pin)
    return websocket, binding_to(node, websocket.get_extra_info("ssl_object"))


def opening_for(
    configuration: Configuration, binding: bytes, node: NodeInfo | None = None, key: SigningKey | None = None
) -> Opening:
    """What a client opens a session with."""
    node = node or configuration.nodes[0]
    client = key.public if key is not None else b""
    return Opening(
        configuration.cluster_id, configuration.digest, node.key, os.urandom(32), client=client, binding=binding
    )


async def open_session(
    http: aiohttp.ClientSession, configuration: Configuration, key: SigningKey | None = None
) -> tuple[aiohttp.ClientWebSocketResponse, Channel]:
    """A session with the first node, with a key or as a stranger."""
    websocket, binding = await websocket_to(http, configuration)
    opening = opening_for(configuration, binding, key=key)
    await websocket.send_bytes(opening.hello)
    opened = opening.finish((await websocket.receive()).data)
    assert isinstance(opened, tuple)
    if key is not None:
        await websocket.send_bytes(proof(opened[0], key.sign))
    return websocket, opened[0]
