"""Scales keep order, bars keep proportion, and a drawing is XML whatever a name holds."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.report.charts.bars import MOST, Bar, draw_bars
from cmexport.report.charts.curves import Curve, Point, draw_curves, draw_points
from cmexport.report.charts.scales import around, from_zero, logarithmic
from cmexport.report.charts.strips import Strip, draw_strips

WIDTH = 330
HOSTILE = "</svg><script>alert(1)</script> & \"quoted\" 'name'"
figures = st.floats(0.0, 1e300)
some = st.lists(figures, min_size=1, max_size=8)


@pytest.mark.parametrize("make", [from_zero, logarithmic, around])
@given(values=some)
def test_a_scale_keeps_order_and_stays_inside(make, values):
    scale = make(values, 10.0, 300.0)
    at = [scale.at(v) for v in sorted(values)]
    assert at == sorted(at)
    assert all(10.0 <= x <= 300.0 for x in at)
    ticks = scale.ticks()
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 30
    assert all(math.isfinite(t) for t in ticks)


@given(low=st.floats(0.01, 1e6), times=st.floats(1.0, 1e4))
def test_a_logarithmic_scale_has_a_tick_and_equal_ratios_equal_lengths(low, times):
    scale = logarithmic([low, low * times], 0.0, 100.0)
    if times > 3.0:
        assert scale.ticks()
    middle = math.sqrt(scale.low * scale.high)
    assert scale.at(middle) == pytest.approx(50.0)


def drawn(svg):
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    title, desc = root[0], root[1]
    assert (title.tag, desc.tag) == ("title", "desc")
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    width, height = (float(root.get(k)) for k in ("width", "height"))
    for element in root.iter():
        for key in ("x", "x1", "x2", "cx"):
            assert 0.0 <= float(element.get(key, 0)) <= width
        for key in ("y", "y1", "y2", "cy"):
            assert 0.0 <= float(element.get(key, 0)) <= height
    return root


def test_bars_are_as_long_as_their_figures_and_errors_span_their_interval():
    rows = [Bar("a", (10.0,), 8.0, 12.0, "10"), Bar("b", (5.0, 2.5), None, None, "7.5")]
    root = drawn(draw_bars("t", "T", "D", rows, (), "ms", WIDTH))
    lengths = [float(r.get("width")) for r in root.iter("rect")]
    assert lengths[1] / lengths[0] == pytest.approx(0.5, abs=0.01)
    assert lengths[2] / lengths[0] == pytest.approx(0.25, abs=0.01)
    low, high = (float(next(e for e in root.iter("line") if e.get("class") == "error").get(k)) for k in ("x1", "x2"))
    assert (high - low) / lengths[0] == pytest.approx(0.4, abs=0.01)


def test_strips_mark_what_was_measured_and_nothing_else():
    strips = [Strip("a", tuple(map(float, range(1, 500))), 250.0, 450.0, 495.0, 700.0, None)]
    root = drawn(draw_strips("t", "T", "D", strips, WIDTH))
    at = {e.get("class"): float(e.get("cx")) for e in root.iter("circle")}
    assert at["fill c0"] < at["fill c1"] < at["fill c3"]
    assert len(list(root.iter("polygon"))) == 1
    assert sum(e.get("class") == "faint" and e.tag == "line" for e in root.iter()) == 120


@given(st.lists(st.tuples(figures, figures), min_size=1, max_size=6))
def test_any_figures_can_be_drawn(pairs):
    drawn(draw_bars("t", "T", "D", [Bar("a", (x, y), x, y, "v") for x, y in pairs], ("p", "q"), "ms", WIDTH))
    drawn(draw_strips("t", "T", "D", [Strip("a", (x,), x, y, None, None, y) for x, y in pairs], WIDTH))
    drawn(draw_curves("t", "T", "D", [Curve("a", tuple(pairs)), Curve("b", tuple(pairs), True)], "m", "x", WIDTH))
    drawn(draw_points("t", "T", "D", [Point(i, x, y, i) for i, (x, y) in enumerate(pairs)], "MB", "dB", WIDTH))


def test_names_become_text_and_long_ones_are_cut():
    svg = draw_bars("t", HOSTILE, HOSTILE, [Bar(HOSTILE * 9, (1.0,), None, None, HOSTILE)], (), HOSTILE, WIDTH)
    assert "<script" not in svg
    root = drawn(svg)
    assert root[0].text == HOSTILE
    assert any(e.text.endswith("…") for e in root.iter("text"))


def test_a_thousand_rows_are_not_all_drawn():
    rows = [Bar(str(i), (1.0,), None, None, "") for i in range(1000)]
    assert len(list(drawn(draw_bars("t", "T", "D", rows, (), "ms", WIDTH)).iter("rect"))) == MOST
