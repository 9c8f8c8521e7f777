"""Searches under a budget, with rounding, writing and the clock in the tests' own hands."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from cmexport.targets.onnx import budget
from cmexport.targets.onnx.budget import UNSEEN_DB, within_db, within_latency
from cmexport.targets.onnx.providers import profile_for

LAYERS = 20
ORDER = tuple(f"layer.{i}" for i in range(LAYERS))


@dataclass(frozen=True)
class Graph:
    in_float: int
    facts: dict


def world(monkeypatch, tmp_path, db, ratio, pictures=2000, spread=5.0):
    """Plans whose quality and latency are functions of how many layers are in float (-1: every output rounded)."""
    tried, measured = [], []

    def to_int8(prepared, profile, progress, in_float=(), *, spare=True):
        assert tuple(in_float) == ORDER[: len(in_float)]
        count = len(in_float) if spare else -1
        tried.append(count)
        return Graph(count, {"int8": [k for k in ORDER if k not in in_float]})

    def write(graph, name):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(bytes(1000 * (100 + graph.in_float)))
        counts[path] = graph.in_float
        return path

    def latency_ratios(files):
        measured.append(len(files))
        assert files[0] == plain
        return (1.0, *(ratio(counts[f]) for f in files[1:]))

    def score(path):
        return [db(counts[path]) + spread, db(counts[path]) - spread] * pictures

    counts, plain = {}, tmp_path / "plain.onnx"
    monkeypatch.setattr(budget, "float_order", lambda prepared, progress: ORDER)
    monkeypatch.setattr(budget, "to_int8", to_int8)
    monkeypatch.setattr(budget, "latency_ratios", latency_ratios)
    return SimpleNamespace(tried=tried, measured=measured, plain=plain, write=write, score=score)


def quality(count):
    return 50.0 + 0.5 * count


def latency(count):
    return 0.5 + 0.02 * count


@pytest.mark.parametrize("wanted", [45.0, 50.0, 50.5, 52.6, 55.2, 57.0, 59.6])
def test_a_quality_is_kept_with_the_fewest_layers_in_float(monkeypatch, tmp_path, wanted):
    seen = world(monkeypatch, tmp_path, quality, latency)
    choice = within_db(None, profile_for("cpu"), wanted, seen.plain, seen.write, seen.score, lambda _: None)
    fewest = next(n for n in range(LAYERS + 1) if quality(n) >= wanted + UNSEEN_DB)
    assert choice.met
    assert choice.point.in_float == choice.graph.in_float == fewest
    assert choice.point.db == quality(fewest)
    assert choice.point.worst_db == quality(fewest) - 5
    assert choice.point.ratio == pytest.approx(latency(fewest))
    assert choice.point.megabytes == pytest.approx((100 + fewest) / 1000, abs=0.006)
    assert len(set(seen.tried)) == len(seen.tried) == len(choice.frontier)
    assert seen.measured == [len(seen.tried) + 1]
    assert [p.ratio for p in choice.frontier] == sorted(p.ratio for p in choice.frontier)


def test_pictures_that_differ_much_ask_for_more(monkeypatch, tmp_path):
    """A mean over 16 pictures that are 4 dB apart from it is known to 2 dB: two of its standard errors."""
    seen = world(monkeypatch, tmp_path, quality, latency, pictures=8, spread=4.0)
    choice = within_db(None, profile_for("cpu"), 52.0, seen.plain, seen.write, seen.score, lambda _: None)
    error = 4.0 * (16 / 15) ** 0.5 / 16**0.5
    fewest = next(n for n in range(LAYERS + 1) if quality(n) >= 52.0 + 2 * error)
    assert 2 * error > 2 > UNSEEN_DB
    assert choice.point.in_float == fewest


def test_a_quality_that_none_has_gets_the_best_there_is(monkeypatch, tmp_path):
    seen = world(monkeypatch, tmp_path, quality, latency)
    choice = within_db(None, profile_for("cpu"), 140.0, seen.plain, seen.write, seen.score, lambda _: None)
    assert not choice.met
    assert choice.point.in_float == LAYERS
    assert choice.point.db == max(p.db for p in choice.frontier)


@pytest.mark.parametrize(("allowed", "expected"), [(0.5, 0), (0.53, 1), (0.6, 4), (0.75, 12), (2.0, 16)])
def test_within_a_latency_the_best_picture(monkeypatch, tmp_path, allowed, expected):
    seen = world(monkeypatch, tmp_path, quality, latency)
    choice = within_latency(None, profile_for("cpu"), allowed, seen.plain, seen.write, seen.score, lambda _: None)
    assert choice.met
    assert choice.point.in_float == expected
    assert choice.point.ratio <= allowed
    assert choice.point.db == max(p.db for p in choice.frontier if p.ratio <= allowed)


def test_a_latency_that_none_has_gets_the_fastest(monkeypatch, tmp_path):
    for ep, fastest in (("cpu", -1), ("openvino", 0)):
        seen = world(monkeypatch, tmp_path, quality, latency)
        choice = within_latency(None, profile_for(ep), 0.01, seen.plain, seen.write, seen.score, lambda _: None)
        assert not choice.met
        assert choice.point.in_float == fastest
        assert choice.point == choice.frontier[0]
        # Rounding every output is a plan only where the others spare some.
        assert (-1 in seen.tried) == (ep == "cpu")


def test_more_float_is_not_always_better_and_the_best_counts(monkeypatch, tmp_path):
    seen = world(monkeypatch, tmp_path, lambda n: {2: 70.0}.get(n, 50.0 + n / 10), latency)
    choice = within_latency(None, profile_for("openvino"), 0.8, seen.plain, seen.write, seen.score, lambda _: None)
    assert choice.point.in_float == 2


def test_the_account_names_budget_and_frontier(monkeypatch, tmp_path):
    seen = world(monkeypatch, tmp_path, quality, latency)
    choice = within_db(None, profile_for("cpu"), 51.0, seen.plain, seen.write, seen.score, lambda _: None)
    facts = choice.facts({"budget_db": 51.0})
    assert facts["budget_db"] == 51.0
    assert facts["budget_met"] is True
    assert [p["in_float"] for p in facts["frontier"]] == sorted(seen.tried)
    assert facts["int8"] == list(ORDER[choice.point.in_float :])
    assert set(facts["frontier"][0]) == {"in_float", "db", "worst_db", "ratio", "megabytes"}
