"""Benchmarks: figures measured in seconds to minutes."""
