"""cmx1 against Random123's own vectors, the normal distribution of the standard library, and recorded streams."""

from __future__ import annotations

import hashlib
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport import noise

WORDS = st.integers(0, 2**32 - 1)


def _words(*words: int) -> np.ndarray:
    return np.array(words, dtype=np.uint64)


def _bits(values: np.ndarray) -> list[str]:
    return [f"{int(value):08x}" for value in values.view(np.uint32)]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_is_random123s(counter: tuple[int, ...], key: tuple[int, int], expected: str) -> None:
    found = noise.philox([_words(word) for word in counter], key)
    assert " ".join(f"{int(word[0]):08x}" for word in found) == expected


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        *((0, "c0cad08d"), (1, "c0c55364"), (0x7FFFFFFF, "afa06c99"), (0x80000000, "2fa06c99")),
        (0xFFFFFFFF, "40cad08d"),
        # The two of all 2^32 that a fused multiply-add changes by one bit.
        *((0x20F8A25E, "bf90e904"), (0xDF075DA1, "3f90e904")),
    ],
)
def test_recorded_words(word: int, bits: str) -> None:
    assert _bits(noise.normal(_words(word))) == [bits]


@pytest.mark.parametrize(
    ("seed", "stream", "first", "sha256"),
    [
        (0, 0, "be82fa50 3f96bb4f 3f2153b7 3e88fdeb", "2cc8acd65b33ea76"),
        (0, 1, "3d2b4c1f 3fc6a4fa bfc81b6d 3d1f4880", "4200763f657015f5"),
        (42, 0, "3e92f728 bda16e33 bfb9dfa1 bed1fa53", "52e1d77a6e908cee"),
    ],
)
def test_recorded_streams(seed: int, stream: int, first: str, sha256: str) -> None:
    drawn = noise.draw(seed, 3072, stream)
    assert " ".join(_bits(drawn[:4])) == first
    assert hashlib.sha256(drawn.astype("<f4").tobytes()).hexdigest()[:16] == sha256


@pytest.mark.parametrize(
    ("seed", "sha256"),
    [(0, "1be5a2e72da64649"), (1, "830e4059563e1c81"), (0x123456789ABCDEF0, "550f75835d87d546")],
)
def test_a_million_numbers_are_those_of_other_languages(seed: int, sha256: str) -> None:
    """As NumPy, Node, Chromium, C++ on two processors, Kotlin and Swift gave."""
    drawn = noise.draw(seed, 2**20)
    assert hashlib.sha256(drawn.astype("<f4").tobytes()).hexdigest()[:16] == sha256


@given(st.lists(WORDS, min_size=1, max_size=200))
def test_numbers_are_the_normal_distributions(words: list[int]) -> None:
    exact = np.array([NormalDist().inv_cdf((2 * word + 1) / 2**33) for word in words])
    # One in the last place: the library's own rounding may differ where float64 lies between two float32.
    assert np.allclose(noise.normal(_words(*words)), exact, rtol=1.2e-7, atol=0)


@given(WORDS, WORDS)
def test_numbers_rise_with_their_words(first: int, second: int) -> None:
    low, high = noise.normal(_words(*sorted((first, second))))
    assert low <= high


@given(WORDS)
def test_numbers_are_odd_about_the_middle(word: int) -> None:
    one, other = noise.normal(_words(word, 0xFFFFFFFF - word))
    assert one == -other


@given(st.integers(0, 2**64 - 1), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_a_number_does_not_depend_on_how_many_are_drawn(seed: int, count: int, stream: int) -> None:
    assert (noise.draw(seed, count, stream) == noise.draw(seed, 301, stream)[:count]).all()


def test_seeds_and_streams_are_apart() -> None:
    drawn = [noise.draw(*asked) for asked in ((0, 64, 0), (0, 64, 1), (1, 64, 0), (2**32, 64, 0), (0, 64, 2**31))]
    assert len({values.tobytes() for values in drawn}) == len(drawn)


def test_blocks_beyond_32_bits_are_counted_in_the_next_word() -> None:
    """2^34 numbers can't be drawn; what matters is that the high half of a block's number has a place."""
    low, high = (noise.philox([_words(1), _words(word), _words(0), _words(0)], (0, 0)) for word in (0, 1))
    assert [int(word[0]) for word in low] != [int(word[0]) for word in high]


@pytest.mark.parametrize(
    ("seed", "count", "stream"), [(-1, 1, 0), (2**64, 1, 0), (0, -1, 0), (0, 1, -1), (0, 1, 2**32)]
)
def test_out_of_range(seed: int, count: int, stream: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        noise.draw(seed, count, stream)
