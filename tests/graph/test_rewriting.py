"""Applying rewrites: selection, the account, and that a wrong rewrite can't pass."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from cmexport.errors import UsageError
from cmexport.graph.evaluate import unclamped_picture
from cmexport.graph.fxtools import aten, attribute
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import MAX_RELATIVE_ERROR, Changes, Rewrite, apply_rewrites, relative_error, select
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest

TWO_STEPS = (80.0, 1.3823680064)


def test_select_all_none_and_names():
    names = [r.name for r in REWRITES]
    assert select(REWRITES, "all") == REWRITES
    assert select(REWRITES, "none") == select(REWRITES, "") == ()
    # Always in their own order, whatever the order asked for.
    assert [r.name for r in select(REWRITES, f"{names[3]}, {names[1]}")] == [names[1], names[3]]


def test_select_refuses_unknown_names():
    with pytest.raises(UsageError, match=r"unknown rewrite 'fold_time'; known: all, none, fold_attention, fold_") as e:
        select(REWRITES, "fold_constants,fold_time")
    assert e.value.exit_code == 2


def stored(program):
    """Numbers that the program's operators refer to, counted on the ExportedProgram."""
    tensors = {**program.state_dict, **program.constants}
    targets = {
        spec.target
        for spec, node in zip(
            program.graph_signature.input_specs,
            (n for n in program.graph.nodes if n.op == "placeholder"),
            strict=True,
        )
        if spec.target is not None and node.users
    }
    return sum(tensors[t].numel() for t in targets)


def operations(program):
    return sum(n.op == "call_function" and "assert" not in str(n.target) for n in program.graph.nodes)


@pytest.mark.parametrize("request_", [SampleRequest(), SampleRequest(sigmas=TWO_STEPS, batch=2, label=1)])
def test_the_account_adds_up(adm_model, captured, request_):
    graph = captured(adm_model(), request_)
    rewritten = apply_rewrites(graph, REWRITES)
    reports = rewritten.rewrites
    assert [r.name for r in reports] == [r.name for r in REWRITES]
    assert sum(r.parameters_removed for r in reports) == stored(graph.program) - stored(rewritten.program) > 0
    assert sum(r.nodes_removed for r in reports) == operations(graph.program) - operations(rewritten.program) > 0
    for report in reports:
        assert (report.max_relative_error is None) == (report.applied == 0)
        if report.max_relative_error is not None:
            assert 0.0 <= report.max_relative_error <= MAX_RELATIVE_ERROR
    by_name = {r.name: r for r in reports}
    # Sharing computes the same numbers fewer times; folding stores rounded ones.
    assert by_name["share_common"].max_relative_error == 0.0
    assert by_name["fold_constants"].max_relative_error > 0.0


def test_reports_accumulate_and_the_capture_stays(adm_model, captured):
    graph = captured(adm_model(channel_mult=(1,)))
    before = operations(graph.program)
    once = apply_rewrites(graph, REWRITES[:1])
    twice = apply_rewrites(once, REWRITES[1:2])
    assert [r.name for r in twice.rewrites] == [r.name for r in REWRITES[:2]]
    assert operations(graph.program) == before
    assert graph.rewrites == ()
    assert apply_rewrites(graph, ()) is graph


def test_progress_names_each_rewrite(adm_model, captured):
    told = []
    apply_rewrites(captured(adm_model(channel_mult=(1,), num_classes=None)), REWRITES[:2], told.append)
    assert told == [r.name for r in REWRITES[:2]]


def scaling_by(factor):
    """A rewrite that multiplies the last convolution's weights by a number."""

    def apply(editor):
        conv = [n for n in editor.graph.nodes if n.target is aten.conv2d.default][-1]
        conv.update_arg(1, editor.constant(conv, attribute(editor.module, conv.args[1]).double() * factor))
        return Changes(1)

    return Rewrite("wrong", "changes the picture", apply)


@pytest.mark.parametrize("factor", [1.0 + 1e-5, 2.0, math.nan])
def test_a_wrong_rewrite_is_caught(adm_model, captured, factor):
    graph = captured(adm_model(channel_mult=(1,), num_classes=None))
    with pytest.raises(RuntimeError, match="rewrite wrong changed the picture by"):
        apply_rewrites(graph, [scaling_by(factor)])


def test_a_harmless_rewrite_passes(adm_model, captured):
    rewritten = apply_rewrites(captured(adm_model(channel_mult=(1,), num_classes=None)), [scaling_by(1.0)])
    assert rewritten.rewrites[0].max_relative_error == 0.0


@pytest.mark.parametrize("output", ["float", "uint8"])
def test_clamping_hides_nothing(adm_model, captured, output):
    """A picture that is white everywhere looks the same after any rewrite; errors are measured before the clamp."""
    model = adm_model(fresh=True, channel_mult=(1,), num_classes=None)
    model.network.out[2].bias.data += 100.0
    graph = captured(model, SampleRequest(output=output))
    inputs = graph.examples()
    image = graph.program.module(check_guards=False)(**inputs)
    assert image.min() == image.max() == (1.0 if output == "float" else 255)
    unclamped = unclamped_picture(to_module(graph.program), inputs)
    assert unclamped.shape == (1, 3, 8, 8)
    assert 40.0 < unclamped.min() < unclamped.max()
    with pytest.raises(RuntimeError, match="rewrite wrong"):
        apply_rewrites(graph, [scaling_by(1.001)])


def test_relative_error_is_relative_to_the_largest_pixel():
    before = torch.tensor([0.0, -4.0, 1.0], dtype=torch.float64)
    assert relative_error(before, before) == 0.0
    assert relative_error(before, before + torch.tensor([0.2, 0.0, -0.1])) == pytest.approx(0.05)
    assert relative_error(before * 0, before * 0) == 0.0
    assert math.isnan(relative_error(before, before * math.nan))


def test_two_steps_store_weights_once(adm_model, captured):
    """Only the first and the last convolution differ between steps: c_in sigma and c_out are folded into them."""
    model = adm_model()
    rewritten = apply_rewrites(captured(model, SampleRequest(sigmas=TWO_STEPS)), REWRITES)
    module = to_module(rewritten.program)
    convolutions = [n for n in module.graph.nodes if n.target is aten.conv2d.default]
    weights = {n.args[1].target for n in convolutions}
    in_network = sum(isinstance(m, torch.nn.Conv2d) for m in model.network.modules())
    assert len(convolutions) == 2 * in_network
    assert len(weights) == in_network + 2
    contents = [attribute(module, n) for n in module.graph.nodes if n.op == "get_attr" and n.target in weights]
    distinct = {t.data_ptr(): t for t in contents}.values()
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in itertools.combinations(distinct, 2))
    assert stored(rewritten.program) < model.parameters
