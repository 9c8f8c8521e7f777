"""Checkpoints of every supported format become a `ConsistencyModel`; after that nobody knows where they came from."""

from __future__ import annotations

from cmexport.checkpoints.loading import load_checkpoint
from cmexport.checkpoints.own_module import load
from cmexport.checkpoints.settings import KNOWN_SETTINGS

__all__ = ["KNOWN_SETTINGS", "load", "load_checkpoint"]
