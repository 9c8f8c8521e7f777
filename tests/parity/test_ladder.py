"""The ladder with runners that are plain arithmetic."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from cmexport.errors import BackendError, CheckpointError
from cmexport.parity.gates import Yardstick, byte_gate
from cmexport.parity.inputs import VerificationInputs, draw_inputs
from cmexport.parity.ladder import Rung, climb, draw_truth, first_of
from cmexport.parity.metrics import as_bytes
from cmexport.parity.table import parity_table, verdict
from cmexport.signature import Signature, Tokens, known


class Clock:
    """Time that passes only when a runner says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class House:
    """Makes runners and watches that only one is open, and that each is gone from memory before the next."""

    def __init__(self) -> None:
        self.open_now: list[str] = []
        self.events: list[str] = []
        self.alive: weakref.WeakSet[FakeRunner] = weakref.WeakSet()
        self.clock = Clock()

    def rung(self, name: str, draw: Callable[[dict], dict], seconds: float = 0.0) -> Rung:
        return Rung(name, lambda: FakeRunner(self, name, draw, seconds))

    def constant(self, name: str, error: float, seconds: float = 0.0) -> Rung:
        return self.rung(name, lambda arrays: {"image": np.tanh(arrays["noise"]) + np.float32(error)}, seconds)


class FakeRunner:
    def __init__(self, house: House, name: str, draw: Callable[[dict], dict], seconds: float) -> None:
        # Only weakly reachable from now on: a cycle, as real sessions and modules have, needs the collector.
        assert not house.open_now
        assert not house.alive, "the runner before still holds its memory"
        self.cycle = self
        self.house, self.name, self.draw, self.seconds = house, name, draw, seconds
        self.runs = 0
        house.alive.add(self)

    def __enter__(self) -> FakeRunner:
        assert not self.house.open_now
        self.house.open_now.append(self.name)
        self.house.events.append(f"open {self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self.house.open_now.remove(self.name)
        self.house.events.append(f"close {self.name} after {self.runs}")

    def __call__(self, arrays: dict) -> dict:
        assert self.house.open_now == [self.name]
        self.runs += 1
        self.house.clock.now += self.seconds * len(arrays["noise"])
        return self.draw(arrays)


@pytest.fixture
def house() -> House:
    gc.collect()
    return House()


def border(pictures: tuple[int, ...]) -> Signature:
    return Signature((known.noise(pictures),), known.finished(pictures))


def inputs(pictures: int = 10, batch: int = 1, seed: int = 0) -> VerificationInputs:
    return draw_inputs(border((batch, 1, 4, 4)), pictures, seed)


def test_reference_first_then_each_rung_one_at_a_time(house: House) -> None:
    report = climb(
        house.constant("torch", 0.0),
        [house.constant("plain", 1e-5), house.constant("optimized", 1e-4)],
        inputs(10),
        60.0,
        exact=house.constant("float64", 0.0),
    )
    assert house.events == [
        *("open torch", "close torch after 10", "open float64", "close float64 after 4"),
        *("open plain", "close plain after 10", "open optimized", "close optimized after 10"),
    ]
    assert [rung.name for rung in report.rungs] == ["plain", "optimized"]
    assert report.rungs[0].difference.mean_db == pytest.approx(106.02, abs=0.1)
    assert report.rungs[1].difference.mean_db == pytest.approx(86.02, abs=0.1)
    assert report.passed
    assert report.failed_rung is None
    assert (report.pictures_asked, report.pictures, report.seed, report.output) == (10, 10, 0, "float")


def test_the_first_rung_outside_the_gate_is_named_and_the_rest_is_still_measured(house: House) -> None:
    report = climb(
        house.constant("torch", 0.0),
        [house.constant("a", 1e-6), house.constant("b", 1e-2), house.constant("c", 1e-1)],
        inputs(),
        60.0,
    )
    assert not report.passed
    assert report.failed_rung == "b"
    assert [rung.passed for rung in report.rungs] == [True, False, False]


def test_a_nan_in_a_rung_fails_it(house: House) -> None:
    def broken(arrays: dict) -> dict:
        image = np.tanh(arrays["noise"])
        image[0, 0, 0, 0] = np.nan
        return {"image": image}

    report = climb(house.constant("torch", 0.0), [house.rung("nan", broken)], inputs(9), 0.0)
    assert report.failed_rung == "nan"
    assert report.rungs[0].difference.non_finite == 9


def test_a_nan_in_the_reference_fails_the_reference(house: House) -> None:
    nan = house.rung("torch", lambda arrays: {"image": arrays["noise"] * np.nan})
    report = climb(nan, [house.constant("a", 0.0)], inputs(8), 0.0)
    assert report.failed_rung == "torch"
    assert report.reference_non_finite == 8 * 16


def test_exact_tells_the_references_own_error(house: House) -> None:
    exact = house.rung("float64", lambda arrays: {"image": np.tanh(arrays["noise"]).astype(np.float64) + 1e-12})
    report = climb(house.constant("torch", 0.0), [house.constant("a", 1e-3)], inputs(8), 60.0, exact=exact)
    assert report.exact is not None
    assert report.exact.pictures == 4
    # 1e-12 vanishes in float32: measured only if the exact pictures stay in float64.
    assert report.exact.reference.max_abs == pytest.approx(1e-12, rel=0.01)
    assert report.exact.reference.mean_db == pytest.approx(246.02, abs=0.1)
    assert report.exact.candidate.max_abs == pytest.approx(1e-3, rel=0.01)


def test_exact_runs_whole_batches(house: House) -> None:
    exact = house.constant("float64", 0.0)
    report = climb(house.constant("t", 0.0), [house.constant("a", 1e-3)], inputs(9, batch=3), 60.0, exact=exact)
    assert report.exact is not None
    assert report.exact.pictures == 6


@pytest.mark.parametrize(
    ("budget", "seconds", "batch", "expected"),
    [
        (None, 100.0, 1, 64),
        (3 * 64.5, 1.0, 1, 64),
        (3 * 20.5, 1.0, 1, 20),
        (1.0, 1.0, 1, 8),  # never fewer than 8
        (3 * 20.5, 1.0, 4, 20),
        (3 * 23.5, 1.0, 4, 20),  # whole batches
        (1.0, 1.0, 3, 9),
        (10.0, 0.0, 1, 64),
    ],
)
def test_time_budget(house: House, budget, seconds, batch, expected) -> None:
    rungs = [house.constant("a", 1e-4, seconds), house.constant("b", 1e-4, seconds)]
    report = climb(
        house.constant("torch", 0.0, seconds),
        rungs,
        inputs(64, batch),
        60.0,
        time_budget_s=budget,
        clock=house.clock,
    )
    asked = -(-64 // batch) * batch
    assert (report.pictures_asked, report.pictures) == (asked, min(expected, asked) if expected < 64 else asked)
    assert all(rung.difference.pictures == report.pictures for rung in report.rungs)
    assert report.reference_seconds == pytest.approx(report.pictures * seconds)
    assert report.rungs[0].seconds == pytest.approx(report.pictures * seconds)
    if budget and expected > 9:
        assert house.clock.now <= budget


def test_time_budget_counts_the_float64_pictures(house: House) -> None:
    report = climb(
        house.constant("torch", 0.0, 1.0),
        [house.constant("a", 1e-4, 1.0)],
        inputs(64),
        60.0,
        exact=house.constant("float64", 0.0, 3.0),
        time_budget_s=52.0,
        clock=house.clock,
    )
    assert report.pictures == 20
    assert house.clock.now == pytest.approx(52.0)


def test_fewer_pictures_than_the_least(house: House) -> None:
    report = climb(house.constant("t", 0.0), [house.constant("a", 1e-4)], inputs(3), 60.0, time_budget_s=1e-9)
    assert report.pictures == 3


def test_progress_is_told_for_every_run(house: House) -> None:
    told: list[tuple[str, int, int]] = []
    climb(
        house.constant("torch", 0.0),
        [house.constant("a", 1e-4)],
        inputs(4, batch=2),
        60.0,
        progress=lambda *args: told.append(args),
    )
    assert told == [("torch", 0, 4), ("torch", 2, 4), ("torch", 4, 4), ("a", 0, 4), ("a", 2, 4), ("a", 4, 4)]


def test_preview_is_the_first_pictures_of_reference_and_last_rung(house: House) -> None:
    rungs = [house.constant("a", 0.1), house.constant("b", 0.2)]
    report = climb(house.constant("torch", 0.0), rungs, inputs(12), 60.0)
    expected = np.tanh(np.concatenate([run["noise"] for run in inputs(8)]))
    assert np.array_equal(report.preview.reference, expected)
    assert np.array_equal(report.preview.candidate, expected + np.float32(0.2))


def test_byte_outputs_get_the_gate_for_bytes(house: House) -> None:
    def in_bytes(error: float) -> Callable[[dict], dict]:
        def draw(arrays: dict) -> dict:
            rng = np.random.default_rng(int(abs(arrays["noise"].flat[0]) * 1e6))
            noise = rng.standard_normal(arrays["noise"].shape) * error
            return {"image": as_bytes((np.tanh(arrays["noise"]) * 0.9 + noise).astype(np.float32))}

        return draw

    wide = draw_inputs(border((1, 3, 32, 32)), 16)
    good, bad = house.rung("good", in_bytes(4e-6)), house.rung("bad", in_bytes(2e-4))  # 114 dB and 80 dB as floats
    report = climb(house.rung("torch", in_bytes(0.0)), [good, bad], wide, 100.0)
    assert report.output == "uint8"
    assert (report.gate_db, report.applied_gate_db) == (100.0, byte_gate(100.0))
    assert [rung.passed for rung in report.rungs] == [True, False]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_buffers_that_a_backend_reuses_are_copied(house: House, dtype: type) -> None:
    buffer = np.zeros((1, 4, 4, 1) if dtype is np.uint8 else (1, 1, 4, 4), dtype=dtype)

    def draw(arrays: dict) -> dict:
        image = np.tanh(arrays["noise"])
        buffer[...] = as_bytes(image) if dtype is np.uint8 else image
        return {"image": buffer}

    report = climb(house.constant("torch", 0.0), [house.rung("reuses", draw)], inputs(8), 100.0)
    assert report.rungs[0].difference.identical


@pytest.mark.parametrize(
    ("outputs", "kind", "message"),
    [
        (
            {"a": np.zeros((1, 1, 4, 4)), "b": np.zeros(1)},
            BackendError,
            "one output is expected.*not a, b",
        ),
        ({}, BackendError, "not none"),
        ({"image": np.zeros((1, 4, 4))}, BackendError, "has shape"),
        ({"image": np.zeros((2, 1, 4, 4))}, BackendError, "has shape"),
        ({"image": np.zeros((1, 1, 8, 8), np.float32)}, CheckpointError, "not the same model"),
    ],
)
def test_runners_that_return_something_else(house: House, outputs, kind, message) -> None:
    with pytest.raises(kind, match=message):
        climb(house.constant("torch", 0.0), [house.rung("odd", lambda _: outputs)], inputs(), 60.0)
    assert not house.open_now


def test_a_runner_is_closed_when_it_raises(house: House) -> None:
    def fail(_: dict) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        climb(house.constant("torch", 0.0), [house.rung("odd", fail)], inputs(), 60.0)
    assert not house.open_now


def test_a_ladder_needs_a_rung(house: House) -> None:
    with pytest.raises(ValueError, match="at least one rung"):
        climb(house.constant("torch", 0.0), [], inputs(), 60.0)


def test_a_rung_may_have_a_gate_of_its_own():
    inputs = draw_inputs(border((1, 3, 4, 4)), 8)

    class Off:
        def __init__(self, error):
            self.error = error

        def __call__(self, arrays):
            return {"image": arrays["noise"].clip(-1, 1) + np.float32(self.error)}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    # An error of 0.01 everywhere is 20 log10(2 / 0.01) = 46 dB.
    def report(gate):
        rungs = [Rung("emulated", lambda: Off(0.01), gate), Rung("shipped", lambda: Off(0.0))]
        return climb(Rung("reference", lambda: Off(0.0)), rungs, inputs, 60.0)

    assert report(45.0).passed
    assert [r.own_gate_db for r in report(45.0).rungs] == [45.0, None]
    assert report(47.0).failed_rung == "emulated"
    assert report(None).failed_rung == "emulated"
    assert "at mean 46.0 dB instead of 47 dB" in verdict(report(47.0))


def test_bounds_of_large_models_are_looked_at_in_few_pictures(house: House) -> None:
    bound, shipped = house.constant("emulated", 1e-3), house.constant("ideal", 1e-6)
    inputs = draw_inputs(border((1, 3, 4, 4)), 8)
    rungs = [Rung(bound.name, bound.open, 40.0), shipped]
    report = climb(house.constant("reference", 0.0), rungs, inputs, 60.0, bound_pictures=2)
    assert [r.difference.pictures for r in report.rungs] == [2, 8]
    assert report.passed
    assert "close emulated after 2" in house.events
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(parity_table(report))
    assert "emulated (2 pictures)" in console.export_text()
    # The last rung is what ships: all of its pictures are compared, whatever its gate.
    last = climb(house.constant("reference", 0.0), rungs[:1], inputs, 60.0, bound_pictures=2)
    assert last.rungs[0].difference.pictures == 8
    # Of huge models those without a gate of their own, too.
    plain = house.constant("unoptimized", 1e-6)
    for bound_all, pictures in ((False, 8), (True, 2)):
        huge = climb(
            house.constant("reference", 0.0), [plain, shipped], inputs, 60.0, bound_pictures=2, bound_all=bound_all
        )
        assert [r.difference.pictures for r in huge.rungs] == [pictures, 8]


def spread(house: House, name: str, errors: Callable[[int], float]) -> Rung:
    """A rung whose picture i is off by errors(i) everywhere."""
    seen = [0]

    def draw(arrays: dict) -> dict:
        image = np.tanh(arrays["noise"]).astype(np.float32)
        for i in range(len(image)):
            image[i] += np.float32(errors(seen[0]))
            seen[0] += 1
        return {"image": image}

    return house.rung(name, draw)


def several(pictures: int = 64) -> VerificationInputs:
    return draw_inputs(border((1, 3, 4, 4)), pictures)


def test_early_rungs_settle_where_nothing_is_in_doubt() -> None:
    house = House()
    rungs = [house.constant("first", 1e-4), house.constant("ships", 1e-4)]
    found = climb(house.constant("reference", 0.0), rungs, several(), 60.0, settle_early=True)
    assert [rung.difference.pictures for rung in found.rungs] == [16, 64]
    assert (found.pictures, found.pictures_asked, found.settled) == (64, 64, False)


@pytest.mark.parametrize(
    "errors",
    [
        lambda i: 1e-3 if i != 5 else 1e-2,  # one picture below the gate
        lambda i: 10 ** -(3.05 + 1.5 * (i % 2)),  # a mean above the gate, with too wide a spread
        lambda i: float("nan") if i == 3 else 1e-6,
    ],
)
def test_a_doubtful_rung_runs_all_pictures(errors) -> None:
    house = House()
    rungs = [spread(house, "first", errors), house.constant("ships", 1e-6)]
    found = climb(house.constant("reference", 0.0), rungs, several(), 66.0, settle_early=True)
    assert [rung.difference.pictures for rung in found.rungs] == [64, 64]


def test_a_costly_ladder_settles_as_a_whole() -> None:
    house = House()
    rungs = [house.constant("first", 1e-5), house.constant("ships", 1e-4)]
    found = climb(house.constant("reference", 0.0), rungs, several(), 60.0, settle_last=True)
    assert [rung.difference.pictures for rung in found.rungs] == [16, 16]
    assert (found.pictures, found.pictures_asked, found.settled, found.passed) == (16, 64, True, True)


def test_a_costly_ladder_in_doubt_is_climbed_again_with_all_pictures() -> None:
    house = House()
    # 64, 82 and 100 dB in turn: 16 of them leave the mean uncertain by 3.7 dB.
    rungs = [spread(house, "ships", lambda i: 10 ** -(2.9 + 0.9 * (i % 3)))]
    found = climb(house.constant("reference", 0.0), rungs, several(), 62.0, settle_last=True)
    assert (found.pictures, found.settled) == (64, False)


def test_a_reference_that_takes_any_batch_draws_several_pictures_at_once() -> None:
    house = House()
    sizes = []

    def draw(arrays: dict) -> dict:
        sizes.append(len(arrays["noise"]))
        return {"image": np.tanh(arrays["noise"])}

    made = house.rung("reference", draw)
    together = Rung(made.name, made.open, pictures_at_once=8)
    found = climb(together, [house.constant("ships", 0.0)], several(20), 100.0)
    assert sizes == [8, 8, 4]
    assert found.rungs[0].difference.identical


def test_joined_runs_keep_each_inputs_own_picture_axis() -> None:
    house = House()
    both = known.noise((1, 3, 4, 4)), known.renoise(2, (1, 3, 4, 4))
    several = Signature(both, known.finished((1, 3, 4, 4)))

    def draw(arrays: dict) -> dict:
        return {"image": np.tanh(arrays["noise"] + arrays["renoise"].sum(axis=0))}

    made = house.rung("reference", draw)
    together = Rung(made.name, made.open, pictures_at_once=8)
    found = climb(together, [house.rung("ships", draw)], draw_inputs(several, 16), 100.0)
    assert found.rungs[0].difference.identical


def test_pictures_drawn_before_are_not_drawn_again(house: House) -> None:
    given = several(20)
    truth = draw_truth(house.constant("t", 0.0), given, house.constant("f64", 1e-7), 4)
    assert [len(truth.images), len(truth.exact)] == [20, 4]
    off_limits = Rung("t", lambda: pytest.fail("drawn again"))
    rungs = [house.constant("a", 1e-4)]
    found = climb(off_limits, rungs, given, 60.0, exact=off_limits, drawn=truth)
    usual = climb(house.constant("t", 0.0), rungs, given, 60.0, exact=house.constant("f64", 1e-7))
    assert (found.rungs[0].difference, found.exact) == (usual.rungs[0].difference, usual.exact)


def test_pictures_that_were_not_drawn_before_are_drawn_here(house: House) -> None:
    given = several(20)
    begun = draw_truth(house.constant("t", 0.0), first_of(given, 8), None, 0)
    assert (len(begun.images), begun.exact) == (8, None)
    rungs = [house.constant("a", 1e-4)]
    found = climb(
        *(house.constant("t", 0.0), rungs, given, 60.0),
        exact=house.constant("f64", 1e-7),
        drawn=begun,
    )
    usual = climb(house.constant("t", 0.0), rungs, given, 60.0, exact=house.constant("f64", 1e-7))
    assert (found.pictures, found.rungs[0].difference, found.exact) == (20, usual.rungs[0].difference, usual.exact)
    assert [event for event in house.events if event.startswith("close t")] == [
        "close t after 8",
        "close t after 12",
        "close t after 20",
    ]


def test_the_reference_is_let_go_before_the_first_rung(house: House) -> None:
    climb(
        house.constant("torch", 0.0),
        [house.constant("plain", 1e-4), house.constant("optimized", 1e-4)],
        inputs(3),
        100.0,
        yardstick=Yardstick("bf16", house.constant("bf16", 1e-3).open),
        exact=house.constant("float64", 0.0),
        reference_done=lambda: house.events.append("done"),
    )
    assert house.events.count("done") == 1
    assert house.events.index("done") == house.events.index("open plain") - 1
    assert house.events.index("open bf16") < house.events.index("done")


def test_where_few_pictures_do_not_settle_it_the_reference_is_kept(house: House) -> None:
    doubtful = house.constant("a", 1e-4)
    climb(
        house.constant("torch", 0.0),
        [doubtful],
        inputs(20),
        200.0,
        settle_last=True,
        reference_done=lambda: house.events.append("done"),
    )
    assert [e for e in house.events if e in ("open torch", "done")] == ["open torch", "open torch", "done"]


WORDS = Tokens(50, 48, 49, None, tuple((i, i + 1) for i in range(20)))


@pytest.mark.parametrize(("budget", "expected"), [(1.0, 2), (48.0, 2), (72.0, 3), (240.0, 10), (None, 40)])
def test_pictures_of_a_huge_model_are_counted_one_by_one(house: House, budget, expected) -> None:
    """Four seconds each: reference twice, gate, one rung once and one twice make 24 s a picture."""
    signature = Signature((known.noise((1, 1, 4, 4)), known.tokens(1, 8, WORDS)), known.finished((1, 1, 4, 4)))

    def draw(error: float) -> Callable[[dict], dict]:
        return lambda a: {"image": np.tanh(a["noise"]) + np.float32(error + 0.001 * float(a["tokens"].sum()))}

    rungs = [house.rung("a", draw(1e-4), 4.0), house.rung("b", draw(2e-4), 4.0)]
    report = climb(
        house.rung("torch", draw(0.0), 4.0),
        rungs,
        draw_inputs(signature, 40),
        60.0,
        yardstick=Yardstick("bf16", house.rung("bf16", draw(1e-3), 4.0).open, pictures=40),
        time_budget_s=budget,
        least_pictures=2,
        wanted_pairs=None,
        clock=house.clock,
    )
    assert (report.pictures_asked, report.pictures) == (40, expected)
    assert [rung.difference.pictures for rung in report.rungs] == [expected, expected]
    assert report.sensitivity is not None
    assert report.sensitivity.pairs == expected
    if budget is not None and expected > 2:
        assert house.clock.now <= budget
