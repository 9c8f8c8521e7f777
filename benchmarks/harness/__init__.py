"""The harness: one process per engine, interleaved turns, ratios against the naive export of the same turn."""
