"""cmexport: a compiler for consistency models. In: a checkpoint. Out: one verified graph that gives pictures."""

__version__ = "0.1.0"
