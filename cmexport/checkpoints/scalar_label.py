"""A continuous condition of a network: a difficulty in the users' own units, which the network takes from 0 to 1."""

from __future__ import annotations

from cmexport.checkpoints.settings import Default, Settings
from cmexport.errors import UsageError
from cmexport.model import Condition
from cmexport.networks.scalar_label import UnitInterval
from cmexport.signature import known


def scalar_label(settings: Settings) -> Condition:
    """Return the condition `difficulty`; a value that is set is a constant of the graph.

    The units come from the checkpoint where it states them, else from `--set label_range=1,100`. Without either they
    are the numbers that the network takes, 0 to 1, a guess that is said aloud.

    Raises:
        UsageError: the value lies outside its range.
    """
    fallback = Default((0, 1), "guess: as the network takes it", ambiguous=True)
    low, high = settings.choose("label_range", fallback)
    usual = None
    if settings.said(known.DIFFICULTY) is not None:
        usual = settings.choose(known.DIFFICULTY, fallback)
        if not low <= usual <= high:
            raise UsageError(f"--set {known.DIFFICULTY}={usual:g}: out of range, this model takes {low:g} to {high:g}")
    encode = UnitInterval(low, high).eval()
    return Condition("label", known.difficulty(1, low, high), encode, usual=usual)
