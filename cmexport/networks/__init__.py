"""Architectures that no library provides in an export-friendly form."""
