"""Graphs in turn as one: what is handed on, how long each takes, and what each costs alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cmexport.parity.alone import alone_db
from cmexport.parity.chain import ChainRunner, Link, chained
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.ladder import Rung, climb
from cmexport.signature import Input, Normal, Output, Signature
from cmexport.signature.border import PICTURE

SIGNATURE = Signature(
    (Input("noise", (1, 3, 8, 8), law=Normal(), layout=PICTURE),), Output("image", (1, 3, 8, 8), range=(-1.0, 1.0))
)


class Part:
    """Takes one array, gives `change` of it, and lets `seconds` pass on the test's clock."""

    def __init__(self, takes, gives, change, seconds=0.0, clock=None):
        self.takes, self.gives, self.change, self.seconds, self.clock = takes, gives, change, seconds, clock

    def __call__(self, inputs):
        assert list(inputs) == [self.takes]
        if self.clock is not None:
            self.clock.now += self.seconds
        return {self.gives: self.change(inputs[self.takes])}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def link(name, takes, gives, change, **more):
    return Link(name, lambda: Part(takes, gives, change, **more), (takes,))


def three(encode=lambda x: x + 1, paint=lambda x: 2 * x, decode=lambda x: x - 3, **more):
    return [
        link("encode", "noise", "embeddings", encode, **more),
        link("paint", "embeddings", "latent", paint, **more),
        link("decode", "latent", "image", decode, **more),
    ]


def test_what_one_gives_the_next_takes_and_each_has_its_time():
    clock = Clock()
    links = [
        link("encode", "noise", "embeddings", lambda x: x + 1, seconds=0.25, clock=clock),
        link("paint", "embeddings", "latent", lambda x: 2 * x, seconds=2.0, clock=clock),
    ]
    with ChainRunner(links, clock) as runner:
        assert runner.part_seconds == {}
        for value in (1.0, 5.0):
            assert runner({"noise": np.array(value)})["latent"] == 2 * (value + 1)
        assert runner.part_seconds == {"encode": 0.25, "paint": 2.0}


def test_a_slow_first_run_is_not_the_time_of_a_part():
    clock = Clock()
    times = iter([9.0, 1.0, 1.0])
    part = Part("noise", "image", lambda x: x, clock=clock)

    def slow(inputs):
        part.seconds = next(times)
        return Part.__call__(part, inputs)

    class Slow(Part):
        __call__ = staticmethod(slow)

    with ChainRunner([Link("paint", lambda: Slow("noise", "image", None), ("noise",))], clock) as runner:
        for _ in range(3):
            runner({"noise": np.zeros(1)})
        assert runner.part_seconds == {"paint": 1.0}


def test_the_ladder_reports_the_parts_of_each_rung():
    whole = link("whole", "noise", "image", lambda x: 2 * (x + 1) - 3)
    parts = [(each.name, (Rung("file", each.open),), each.takes) for each in three()]
    report = climb(Rung("PyTorch", whole.open), chained(parts), draw_inputs(SIGNATURE, 3), 100.0)
    (rung,) = report.rungs
    assert rung.passed
    assert [name for name, _ in rung.part_seconds] == ["encode", "paint", "decode"]
    assert 0 < sum(seconds for _, seconds in rung.part_seconds) <= rung.seconds
    alone = climb(Rung("PyTorch", whole.open), (Rung("one", whole.open),), draw_inputs(SIGNATURE, 3), 100.0)
    assert alone.rungs[0].part_seconds == ()


@pytest.mark.parametrize(
    ("part", "amplified"),
    # What is wrong with the first part is doubled by the second, what is wrong with the others is not.
    [("encode", 0.02), ("paint", 0.01), ("decode", 0.01)],
)
def test_each_part_alone_costs_what_its_own_error_becomes(part, amplified):
    wrong = {"encode": lambda x: x + 1.01, "paint": lambda x: 2 * x + 0.01, "decode": lambda x: x - 2.99}
    found = dict(alone_db(three(**{part: wrong[part]}), three(), draw_inputs(SIGNATURE, 4)))
    assert list(found) == ["encode", "paint", "decode"]
    assert found[part] == pytest.approx(20 * math.log10(2.0 / amplified), abs=0.1)
    assert {name for name, db in found.items() if db is None} == {"encode", "paint", "decode"} - {part}
