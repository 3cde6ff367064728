"""Benchmarks and load: they speak the public contract, but for references run in process."""
