"""Keys of many writers at once: counters, sets, maps and siblings, as applications use them.

What makes them agree is in core/types and core/fields.py; here are names, values and errors.
"""
