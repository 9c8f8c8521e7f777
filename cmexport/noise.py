"""`cmx1`: noise that is the same to the last bit in every language, on every processor.

PyTorch's own normal numbers differ between two x86 machines (of 65,536 values 25,406, by up to 1.9e-6, between its
AVX2 code and its plain code), so that an app cannot promise the picture of a seed with them. These can be had anywhere:
Philox4x32-10 (Salmon et al., SC 2011) gives 32-bit words, and the inverse of the normal distribution (Wichura's AS 241,
PPND16, Appl. Statist. 37, 1988) makes one number of each, in float64 with + - * / and square roots alone, rounded once
to float32. All 2^32 words give the same bits in C++, Kotlin, Swift and JavaScript. `docs/noise.md` specifies it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NAME = "cmx1"
MOST_SEEDS = 2**64

_Words = npt.NDArray[np.uint64]
_Reals = npt.NDArray[np.float64]

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF_WORD = np.uint64(32)

# AS 241, highest power first. Its third region begins where -ln p exceeds 25; that of the smallest p here is 22.9.
_MIDDLE = (
    (
        *(2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457),
        *(13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    ),
    (
        *(5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867),
        *(5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
    ),
)
_TAIL = (
    (
        *(7.7454501427834140764e-4, 0.0227238449892691845833, 0.241780725177450611770, 1.27045825245236838258),
        *(3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734),
    ),
    (
        *(1.05075007164441684324e-9, 5.47593808499534494600e-4, 0.0151986665636164571966, 0.148103976427480074590),
        *(0.689767334985100004550, 1.67638483018380384940, 2.05319162663775882187, 1.0),
    ),
)
# ln m = 2 artanh(s) is s times the sum of 2 / (2k + 1) s^2k. With |s| <= 0.1716 the first term left out is 2e-20 of it.
_LOGARITHM = tuple(2.0 / power for power in range(23, 0, -2))
_LN_2 = 0.6931471805599453


def draw(seed: int, count: int, stream: int = 0) -> npt.NDArray[np.float32]:
    """Draw the first `count` numbers of a seed, float32 (count,), of mean 0 and variance 1.

    Number i is the same however many are drawn. A picture's `noise` (C, H, W) is stream 0 in C order, `renoise[k - 1]`
    is stream k; picture j of a series has seed + j.

    Args:
        seed: 0 to 2^64 - 1.
        count: how many.
        stream: 0 to 2^32 - 1; the streams of a seed are independent of one another.

    Raises:
        ValueError: seed, count or stream is out of range.
    """
    if not 0 <= seed < MOST_SEEDS or not 0 <= stream < 2**32 or count < 0:
        raise ValueError(f"cmx1: seed {seed}, stream {stream} or count {count} is out of range")
    block = np.arange(-(-count // 4), dtype=np.uint64)
    counter = (block & _LOW, block >> _HALF_WORD, np.full_like(block, stream), np.zeros_like(block))
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return normal(np.stack(words, axis=1).ravel()[:count])


def philox(counter: Sequence[_Words], key: tuple[int, int]) -> tuple[_Words, ...]:
    """Philox4x32 with ten rounds: four words for each counter of four words, as uint64 arrays of equal shape.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; DEShawResearch/random123.
    """
    a, b, c, d = counter
    for turn in range(_ROUNDS):
        low, high = ((k + turn * step) & 0xFFFFFFFF for k, step in zip(key, _KEY_STEPS, strict=True))
        first, second = a * np.uint64(_MULTIPLIERS[0]), c * np.uint64(_MULTIPLIERS[1])
        a, b = (second >> _HALF_WORD) ^ b ^ np.uint64(low), second & _LOW
        c, d = (first >> _HALF_WORD) ^ d ^ np.uint64(high), first & _LOW
    return a, b, c, d


def normal(words: _Words) -> npt.NDArray[np.float32]:
    """Return the normal number at probability (2u + 1) / 2^33 of each 32-bit word u: float32 of the words' shape.

    Monotone in the word, odd about the middle, at most 6.34 in size.
    """
    odd = words.astype(np.float64) * 2.0 + 1.0
    q = odd * 2.0**-33 - 0.5
    middle_r = 0.180625 - q * q
    middle = q * _polynomial(_MIDDLE[0], middle_r) / _polynomial(_MIDDLE[1], middle_r)
    tail_r = np.sqrt(_minus_log(np.minimum(odd, 2.0**33 - odd))) - 1.6
    tail = _polynomial(_TAIL[0], tail_r) / _polynomial(_TAIL[1], tail_r)
    return np.where(np.abs(q) <= 0.425, middle, np.where(q < 0, -tail, tail)).astype(np.float32)


def _minus_log(odd: _Reals) -> _Reals:
    """-ln(odd / 2^33) of odd whole numbers, which float64 holds exactly."""
    mantissa, exponent = np.frexp(odd)
    small = mantissa < 0.7071067811865475
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    power = (exponent - small - 33).astype(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    logarithm: _Reals = power * _LN_2 + s * _polynomial(_LOGARITHM, s * s)
    return -logarithm


def _polynomial(coefficients: Sequence[float], at: _Reals) -> _Reals:
    """Horner's rule in the written order; no product is fused with its sum, which would change 2 of 2^32 results."""
    total = np.full_like(at, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * at + coefficient
    return total
