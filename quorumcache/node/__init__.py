"""A running node: the core's node machine driven by sessions, storage and a real clock.

The rules are in core; here are processes, timers and bounds.
"""
