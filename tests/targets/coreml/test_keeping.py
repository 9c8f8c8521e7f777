"""The rounds of `--keep-fp32 auto`, with executions that are made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cmexport.targets.coreml import keeping
from cmexport.targets.coreml.keeping import AUTO, Kept, convert_keeping

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def find(toy, monkeypatch, tmp_path):
    """A function: what is kept if executions find these operations one after the other, and the names of each round."""
    captured = toy(nn.Conv2d(3, 3, 1), **{"input": torch.zeros(1, 3, 4, 4)})
    monkeypatch.setattr(keeping, "draw_inputs", lambda *_: [])

    def run(*rounds):
        converted, executed = [], iter(rounds)

        def convert(selector):
            converted.append(None if selector is None else sorted(selector.names))
            for name in NAMES:
                if selector is not None:
                    selector(SimpleNamespace(op_type="conv", name=name))

        def blame(package, inputs):
            assert package == tmp_path
            found = next(executed)
            return SimpleNamespace(
                healthy=not found,
                worth_keeping=found,
                operations=[SimpleNamespace(name=name, overflows_itself=True) for name in found],
                difference=SimpleNamespace(non_finite=7, mean_db=None),
            )

        monkeypatch.setattr(keeping, "blame_half", blame)
        kept = convert_keeping(AUTO, convert, captured, tmp_path, lambda _: None)
        assert next(executed, None) is None
        return kept, converted

    return run


def test_a_healthy_package_is_converted_once(find):
    assert find(()) == (Kept(), [None])
    assert Kept().facts() == {}


def test_rounds_add_up_until_nothing_is_found(find):
    kept, converted = find(("c",), ("a", "b"), ())
    assert converted == [None, ["c"], ["a", "b", "c"]]
    assert kept.names == ("a", "b", "c")
    assert kept.reason == (
        "c overflows, pictures hold NaN or Inf in half precision; then "
        "a, b overflow, pictures hold NaN or Inf in half precision"
    )
    assert kept.facts() == {"kept_float32": ["a", "b", "c"], "kept_float32_reason": kept.reason}


def test_three_rounds_at_most_and_the_last_ones_names_are_kept_too(find):
    kept, converted = find(("a",), ("b",), ("c",))
    assert converted == [None, ["a"], ["a", "b"], ["a", "b", "c"]]
    assert kept.names == ("a", "b", "c")


def test_what_was_kept_in_vain_ends_the_search(find):
    kept, converted = find(("a",), ("a",))
    assert converted == [None, ["a"]]
    assert kept.names == ("a",)


def test_long_lists_are_cut_short_in_the_reason_only(find):
    kept, _ = find(("a", "b", "c", "d", "e"), ())
    assert kept.names == NAMES
    assert kept.reason.startswith("a, b, c and 2 more overflow,")
