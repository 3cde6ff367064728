"""Workloads, drivers and benchmarks that speak the public contract."""
