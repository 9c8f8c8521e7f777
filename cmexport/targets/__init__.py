"""Targets: each lowers a captured graph to files and opens runners on them. No target imports another."""
