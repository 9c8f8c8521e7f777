"""The picture of a search under a budget."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.artifact.frontier import HEIGHT, WIDTH, FrontierPoint, frontier_points, frontier_svg, unbeaten

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(min_value=0.05, max_value=90.0, allow_nan=False)
POINTS = st.lists(
    st.builds(FrontierPoint, st.text("<&\"'ab", max_size=6), NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=9
)


def test_points_of_a_plan_know_which_was_written():
    point = {"db": 55.0, "worst_db": 50.0, "ratio": 0.6, "megabytes": 8.0}
    plan = {"frontier": [{**point, "in_float": -1}, {**point, "in_float": 4, "db": 58.0}], "chosen_in_float": 4}
    found = frontier_points(plan)
    assert [(p.name, p.db, p.chosen) for p in found] == [("all in pairs", 55.0, False), ("4 in float", 58.0, True)]
    assert frontier_points({"default": "float32"}) == []


@given(POINTS)
def test_every_point_is_a_dot_inside_the_picture(points):
    root = ET.fromstring(frontier_svg(points, "of <mine>"))
    dots = root.findall(f"{SVG}circle")
    assert len(dots) == len(points)
    assert all(0 <= float(d.get("cx")) <= WIDTH and 0 <= float(d.get("cy")) <= HEIGHT for d in dots)


def test_faster_lies_left_and_better_lies_above():
    root = ET.fromstring(frontier_svg([FrontierPoint("a", 50, 0.5, 8), FrontierPoint("b", 60, 0.7, 9, True)], "x"))
    upper, lower = root.findall(f"{SVG}circle")  # drawn from the best picture down
    assert upper.get("fill") != lower.get("fill")
    assert float(upper.get("cx")) > float(lower.get("cx"))
    assert float(upper.get("cy")) < float(lower.get("cy"))


@given(POINTS)
def test_no_other_point_beats_the_unbeaten(points):
    kept = unbeaten(points)
    assert kept
    for point in kept:
        assert not any(o.ratio <= point.ratio and o.db > point.db for o in points)
    for other in points:
        assert any(k.ratio <= other.ratio and k.db >= other.db for k in kept)


def test_nothing_measured_is_no_frontier():
    with pytest.raises(ValueError, match="without points"):
        frontier_svg([], "x")
