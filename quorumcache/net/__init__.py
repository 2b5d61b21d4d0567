"""Sessions, frames, flow control and the HTTP API: the only place that knows aiohttp.

Moves messages between processes; decides nothing about quorums, stamps or certificates.
"""
