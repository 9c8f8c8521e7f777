"""What each of several graphs that run in turn costs the pictures, while PyTorch runs the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cmexport.parity.chain import ChainRunner, Link
from cmexport.parity.inputs import VerificationInputs
from cmexport.parity.metrics import compare
from cmexport.runner import Array, picture_of


def alone_db(
    shipped: Sequence[Link],
    reference: Sequence[Link],
    inputs: VerificationInputs,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[tuple[str, float | None], ...]:
    """Return the mean PSNR in dB of pictures that one graph of the file and PyTorch's others draw, for each graph.

    Args:
        shipped: the file's graphs in the order in which they run.
        reference: the same graphs in PyTorch.
        inputs: of the whole.
        tell: told the name of each graph.

    Returns:
        Names and dB; None where pictures are identical, or hold NaN or Inf.
    """

    def drawn(links: Sequence[Link]) -> Array:
        with ChainRunner(links) as runner:
            as_pictures = inputs.signature.output.as_pictures
            return np.concatenate([as_pictures(picture_of(runner(each))).copy() for each in inputs])

    true, found = drawn(reference), []
    for index, link in enumerate(shipped):
        tell(link.name)
        mixed = drawn([*reference[:index], link, *reference[index + 1 :]])
        found.append((link.name, compare(true, mixed).mean_db))
    return tuple(found)
