"""Rounding weights so that the layer's output, not the weights, stays close.

Column by column, the error of rounding one input element is made up for by the elements not rounded yet, weighted with
how often they occur together on the calibration pictures. GPTQ (Frantar et al. 2022, arXiv:2210.17323), which is
optimal brain surgery (Hassibi and Stork 1993) with all rows sharing one order.
"""

from __future__ import annotations

import numpy as np
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
    # Columns as rows of numpy arrays: for each of a thousand columns a few operations on a hundred numbers are done,
    # for which torch's calls take several times as long as numpy's.
    left = matrix.t().contiguous().numpy().copy()
    steps = scale.t().contiguous().numpy() if scale.dim() == 2 else scale.numpy()[None].repeat(len(left), axis=0)
    factor = _inverse_factor(gram).numpy()
    codes = np.empty_like(left)
    columns, rows = left.shape
    errors = np.empty((BLOCK, rows), dtype=left.dtype)
    passed_on = np.empty((BLOCK, rows), dtype=left.dtype)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        for column in range(begin, end):
            code, error = codes[column], errors[column - begin]
            np.divide(left[column], steps[column], out=code)
            np.rint(code, out=code)
            np.clip(code, -top, top, out=code)
            np.multiply(code, steps[column], out=error)
            np.subtract(left[column], error, out=error)
            error /= factor[column, column]
            following = passed_on[: end - column - 1]
            # Not a product of matrices: numpy's would start threads of its own beside torch's, and both would spin.
            np.multiply(factor[column, column + 1 : end, None], error, out=following)
            left[column + 1 : end] -= following
        rest = torch.from_numpy(left[end:])
        rest.addmm_(torch.from_numpy(factor[begin:end, end:]).t(), torch.from_numpy(errors[: end - begin]), alpha=-1)
    return torch.from_numpy(codes).t().contiguous()


def _inverse_factor(gram: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped inverse."""
    damped = gram.clone()
    diagonal = damped.diagonal()
    mean = float(diagonal.mean())
    # Elements that were never anything but zero: any code will do, but the inverse must exist.
    diagonal += DAMPING * mean if mean > 0 else 1.0
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    return factor
