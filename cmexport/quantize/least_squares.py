"""Rounding weights so that the layer's output, not the weights, stays close.

Column by column, the error of rounding one input element is made up for by the elements not rounded yet, weighted with
how often they occur together on the calibration pictures. GPTQ (Frantar et al. 2022, arXiv:2210.17323), which is
optimal brain surgery (Hassibi and Stork 1993) with all rows sharing one order.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
"""Columns whose errors are passed on together; later ones hear of them in one product."""
DAMPING = 0.01
"""Of the mean diagonal, added to it: input elements that hardly vary have no say otherwise, and no inverse."""


def round_by_least_squares(matrix: Tensor, gram: Tensor, scale: Tensor, top: int) -> Tensor:
    """Codes (O, K), whole numbers from -top to top as float32, that minimize |(codes scale - matrix) X|^2.

    Args:
        matrix: (O, K).
        gram: (K, K), X X^T of the inputs that `matrix` meets.
        scale: (O,) or (O, K), size of one step for each row (or element).
        top: largest code.
    """
    left = matrix.clone()
    steps = scale[:, None].expand_as(left) if scale.dim() == 1 else scale
    factor = _inverse_factor(gram)
    codes = torch.empty_like(left)
    columns = left.shape[1]
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        errors = torch.empty(left.shape[0], end - begin)
        for column in range(begin, end):
            step = steps[:, column]
            codes[:, column] = (left[:, column] / step).round().clamp(-top, top)
            error = (left[:, column] - codes[:, column] * step) / factor[column, column]
            errors[:, column - begin] = error
            left[:, column + 1 : end] -= error[:, None] * factor[column, column + 1 : end]
        left[:, end:] -= errors @ factor[begin:end, end:]
    return codes


def _inverse_factor(gram: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped inverse."""
    damped = gram.clone()
    diagonal = damped.diagonal()
    mean = float(diagonal.mean())
    # Elements that were never anything but zero: any code will do, but the inverse must exist.
    diagonal += DAMPING * mean if mean > 0 else 1.0
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    return factor
