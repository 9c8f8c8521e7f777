"""FLOPs against a count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.harness.products import fastest, operands, rates
from benchmarks.harness.subjects import TINY
from benchmarks.harness.work import _split, measure_work
from cmexport.model import CheckpointSource, ConsistencyModel, NoiseRange, Space, class_labels
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig


def _model(config):
    torch.manual_seed(0)
    return ConsistencyModel(
        network=AdmUnet(config).eval(),
        architecture={},
        space=Space(3, config.image_size, config.image_size),
        preconditioning="cm",
        c_noise="250ln",
        noise=NoiseRange(0.002, 80.0, 0.5, 7.0, 40),
        conditions=class_labels(config.num_classes),
        renoise="cm",
        clamp=True,
        source=CheckpointSource(Path("tiny.pt"), "", "", 0),
    )


@pytest.fixture(scope="module")
def model():
    return _model(TINY)


def test_convolutions_as_products_hold_all_convolution_flops(model):
    flops, products = measure_work(model, 2)
    assert flops.convolution == sum(2 * m * k * n * count for (m, k, n), count in products.items())
    assert products[2 * 8 * 8, 3 * 9, 32] == 1  # the first one: two 8 x 8 pictures, 3 channels, 3 x 3 taps, to 32


def test_attention_is_two_products_per_block(model):
    # 4 x 4 positions, 64 channels; one block down, one in the middle, two up.
    flops, _ = measure_work(model, 1)
    assert flops.attention == 4 * 2 * (2 * 16 * 16 * 64)


def test_attention_over_many_positions_counts_as_well():
    # 16 x 16 positions and 64 channels per head, where PyTorch would take a fused kernel.
    config = AdmUnetConfig(
        image_size=16, model_channels=64, channel_mult=(1,), num_res_blocks=1, attention_downsampling=(1,)
    )
    flops, _ = measure_work(_model(config), 1)
    assert flops.attention == 4 * 2 * (2 * 256 * 256 * 64)


def test_work_grows_with_the_batch_but_not_the_time_branch(model):
    one, eight = measure_work(model, 1)[0], measure_work(model, 8)[0]
    assert eight.convolution == 8 * one.convolution
    assert eight.attention == 8 * one.attention
    assert one.linear < eight.linear <= 8 * one.linear


def test_an_operator_without_a_column_is_an_error():
    with pytest.raises(ValueError, match="some_new_op"):
        _split({"convolution": 1, "some_new_op": 2})


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16", "int8"])
def test_products_are_products(arithmetic):
    assert operands(arithmetic, 8, 16, 24)().shape == (8, 24)


def test_the_fastest_run_counts(monkeypatch):
    clock = iter([0.0, 0.0, 5.0, 5.0, 6.0, 6.0, 6.0, 9.0, 9.0])
    monkeypatch.setattr("benchmarks.harness.products.time.perf_counter", lambda: next(clock))
    assert fastest(lambda: None, least_s=8.0) == 1.0


def test_rates_weigh_shapes_by_their_work(monkeypatch):
    seconds = {(100, 100, 100): 1.0, (10, 10, 10): 2e-6, (20, 20, 20): 4e-6}
    monkeypatch.setattr("benchmarks.harness.products.operands", lambda _, m, k, n: (m, k, n))
    monkeypatch.setattr("benchmarks.harness.products.fastest", lambda run, _least: seconds[run])
    found = rates("fp32", [(10, 10, 10, 3), (20, 20, 20, 1)], 100)
    assert found["large"] == pytest.approx(2e6 / 1e9)
    assert found["at_shapes"] == pytest.approx((3 * 2000 + 16000) / (3 * 2e-6 + 4e-6) / 1e9)
