"""What applications use: the asyncio client and the synchronous one over it.

Drives the core's read and write machines over net; knows nothing of how a node stores things.
"""
