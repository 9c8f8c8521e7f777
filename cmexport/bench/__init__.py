"""Benchmarks on real devices: latency, memory, energy, heat, and parity on that device."""
