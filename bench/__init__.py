"""Benchmarks, run by hand; nothing shipped imports them."""
