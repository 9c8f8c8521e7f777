"""Distances, PSNR and classes of what two sides draw, against plain loops over all pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cmexport.artifact import read_manifest
from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError, UsageError
from cmexport.exporting import ExportOptions, export_model
from cmexport.model import SampleRequest
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.metrics import as_bytes, compare
from cmexport.progress import Progress
from cmexport.quality.distribution import (
    DistributionOptions,
    Side,
    compare_distributions,
    compare_sides,
    fidelity_of,
    measure,
)
from cmexport.quality.frechet import Gaussian
from cmexport.quality.jackknife import blocks_of
from cmexport.quality.jury import Jury
from cmexport.sampling.denoiser import denoise
from cmexport.signature import Signature, known
from cmexport.targets.info import LoweringOptions

SIDE = 4
CLASSES = 3


class Toy:
    """Pictures from noise and label; like some runtimes, it writes all of them into the same memory."""

    def __init__(self, batch, error=0.0, dtype="float32", broken=()):
        self.error, self.dtype, self.broken, self.runs = error, dtype, broken, 0
        shape = (batch, SIDE, SIDE, 3) if dtype == "uint8" else (batch, 3, SIDE, SIDE)
        self.buffer = np.zeros(shape, dtype)

    def __call__(self, inputs):
        image = np.tanh(inputs["noise"] * 0.4 + 0.1 * inputs["label"][:, None, None, None])
        image = (image + self.error * np.cos(37.0 * inputs["noise"])).astype(np.float32)
        batch = len(image)
        for index in self.broken:
            if self.runs * batch <= index < (self.runs + 1) * batch:
                image[index % batch, 0, 0, 0] = np.nan
        self.buffer[:] = as_bytes(image) if self.dtype == "uint8" else image
        self.runs += 1
        return {"image": self.buffer}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.buffer = None


def inputs_of(batch, count, seed=5):
    pictures = (batch, 3, SIDE, SIDE)
    border = Signature((known.noise(pictures), known.label(batch, CLASSES)), known.finished(pictures))
    return draw_inputs(border, count, seed)


def toy(batch, count, seed=5, **options):
    return Side("toy", lambda: Toy(batch, **options), inputs_of(batch, count, seed))


def every_picture(count, **options):
    runs = inputs_of(1, count)
    with Toy(1, **options) as runner:
        return np.concatenate([runner(run)["image"].copy() for run in runs])


def features(x):
    return x.flatten(1)[:, :5] * torch.arange(1.0, 6.0)


def jury(**changes):
    real = Gaussian(np.full(5, 0.2), np.diag([0.2, 0.5, 1.0, 2.0, 3.0]))
    return replace(Jury("mine", features, lambda f: f[:, :CLASSES], real), **changes)


def distance(a, b):
    """From features, with the trace of the root as a sum of singular values: no covariance is ever formed."""
    a, b = (np.asarray(v, dtype=np.float64) for v in (a, b))
    centred = [(v - v.mean(0)) / math.sqrt(len(v) - 1) for v in (a, b)]
    spread = sum((v**2).sum() for v in centred) - 2.0 * np.linalg.norm(centred[0] @ centred[1].T, "nuc")
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + spread


def test_everything_is_what_a_plain_loop_over_single_pictures_gives():
    count, told = 103, []
    progress = Progress(pictures=lambda name, done, total: told.append((name, done, total)))
    report = compare_sides(toy(16, count), toy(3, count, error=0.05), jury(), count, gate_db=40.0, progress=progress)
    reference, candidate = every_picture(count), every_picture(count, error=0.05)
    difference = compare(reference, candidate)
    assert report.fidelity.mean_db == pytest.approx(difference.mean_db, abs=1e-6)
    assert report.fidelity.min_db == pytest.approx(difference.min_db, abs=1e-6)
    assert report.fidelity.worst_seed == 5 + difference.worst_picture
    f, g = (features(torch.from_numpy(v)).numpy() for v in (reference, candidate))
    apart = report.distances.artifact_reference
    assert apart.value == pytest.approx(distance(f, g), rel=1e-6)
    assert 0.0 <= apart.low < apart.value < apart.high
    left_out = [distance(np.delete(f, list(b), 0), np.delete(g, list(b), 0)) for b in blocks_of(count)]
    assert apart.standard_error == pytest.approx(np.std(left_out) * math.sqrt(19), rel=1e-5)
    assert report.distances.halves == pytest.approx(distance(f[:51], f[51:]), rel=1e-6)
    asked = np.arange(count) % CLASSES
    assert report.agreement.same == np.mean(f[:, :3].argmax(1) == g[:, :3].argmax(1)) < 1.0
    assert report.agreement.artifact_asked == np.mean(g[:, :3].argmax(1) == asked)
    assert report.agreement.reference_asked == np.mean(f[:, :3].argmax(1) == asked)
    assert (report.pictures, report.features, report.seed) == (count, 5, 5)
    assert [done for _, done, _ in told] == [48, 96, 103]
    assert {total for _, _, total in told} == {count}


def test_distances_to_real_pictures_have_a_closed_form():
    rng = np.random.default_rng(0)
    # White features: the root of the product is the root of the real pictures' covariance.
    white = rng.standard_normal((400, 5))
    white -= white.mean(0)
    white = (white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T).astype(np.float32)
    found = measure(white, white + np.float32(0.5), jury().real)
    scales = np.sqrt([0.2, 0.5, 1.0, 2.0, 3.0])
    spread = ((1.0 - scales) ** 2).sum()
    assert found.reference_real.value == pytest.approx(5 * 0.2**2 + spread, rel=1e-5)
    assert found.artifact_real.value == pytest.approx(5 * 0.3**2 + spread, rel=1e-5)
    assert found.difference.value == pytest.approx(5 * (0.3**2 - 0.2**2), rel=1e-4)
    assert found.artifact_reference.value == pytest.approx(5 * 0.25, rel=1e-5)
    # A shift is the same in every block: nothing is uncertain about it.
    assert found.artifact_reference.standard_error < 1e-5


def test_without_real_pictures_only_what_is_known_is_told():
    rng = np.random.default_rng(0)
    found = measure(*rng.standard_normal((2, 60, 4)).astype(np.float32), None)
    assert found.artifact_real is found.reference_real is found.difference is None
    assert found.artifact_reference.value > 0.1


def test_equals_are_at_distance_zero_and_other_seeds_are_not():
    count = 200
    equal = compare_sides(toy(16, count), toy(1, count), jury(), count, gate_db=100.0)
    assert equal.distances.artifact_reference.value == pytest.approx(0.0, abs=1e-9)
    assert equal.distances.difference.value == pytest.approx(0.0, abs=1e-9)
    assert (equal.fidelity.identical, equal.fidelity.mean_db, equal.fidelity.worst_seed) == (count, None, None)
    assert equal.fidelity.passed
    assert equal.agreement.same == 1.0
    other = compare_sides(toy(16, count), toy(1, count, seed=10_000), jury(), count, gate_db=100.0)
    assert other.distances.artifact_reference.value > 0.05
    assert other.agreement.same < 0.8
    assert not other.fidelity.passed


def test_fewer_pictures_than_features_give_no_negative_distance():
    few = np.random.default_rng(3).standard_normal((50, 100)).astype(np.float32)
    found = measure(few, few, None).artifact_reference
    assert 0.0 <= found.low <= found.value < 1e-5


def test_pictures_in_bytes_are_compared_and_judged_as_bytes():
    count = 64
    sides = toy(16, count, dtype="uint8"), toy(1, count, dtype="uint8", error=0.05)
    report = compare_sides(*sides, jury(), count, gate_db=30.0)
    shown = [every_picture(count, dtype="uint8", error=e) for e in (0.0, 0.05)]
    assert report.fidelity.mean_db == pytest.approx(compare(*shown).mean_db, abs=1e-6)
    floats = [torch.from_numpy(s.transpose(0, 3, 1, 2) / 127.5 - 1.0) for s in shown]
    expected = distance(*(features(x).numpy() for x in floats))
    assert report.distances.artifact_reference.value == pytest.approx(expected, rel=1e-4)


def test_a_picture_with_nan_is_counted_and_nothing_is_made_of_it():
    report = compare_sides(toy(16, 48), toy(1, 48, broken=(7, 30)), jury(), 48, gate_db=30.0)
    assert report.fidelity.non_finite == 2
    assert report.fidelity.worst_seed == 5 + 7
    assert report.fidelity.below_gate == pytest.approx(2 / 48)
    assert (report.fidelity.mean_db, report.fidelity.min_db, report.fidelity.percentile_1_db) == (None, None, None)
    assert report.distances is None
    assert report.agreement is None
    assert not report.fidelity.passed


def test_psnr_of_many_pictures():
    rng = np.random.default_rng(0)
    decibels = rng.uniform(30.0, 60.0, 1000)
    found = fidelity_of([4.0 * 10 ** (-d / 10.0) for d in decibels], 40.0, 100)
    assert found.mean_db == pytest.approx(decibels.mean())
    assert found.min_db == pytest.approx(decibels.min())
    assert found.percentile_1_db == pytest.approx(np.sort(decibels)[9])
    assert found.worst_seed == 100 + decibels.argmin()
    assert found.below_gate == np.mean(decibels < 40.0)
    # One identical picture has no finite PSNR: the mean is then that of the mean squared error, as in the ladder.
    found = fidelity_of([0.0, 4e-4, 4e-6], 40.0)
    assert found.mean_db == pytest.approx(10 * math.log10(4 / (4.04e-4 / 3)))
    assert found.identical == 1
    assert fidelity_of([0.0] * 150 + [4e-4], 40.0).percentile_1_db is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": lambda x: 1 / 0}, "division by zero"),
        ({"features": lambda x: x.mean()}, r"\(N, D\) is expected for N = 16"),
        ({"features": lambda x: x.flatten(1)[:3, :5]}, r"not shape \(3, 5\)"),
        ({"features": lambda x: x.flatten(1)[:, :0]}, r"not shape \(16, 0\)"),
        ({"features": lambda x: x.flatten(1)[:, :4]}, "4 features, but the statistics"),
        ({"features": lambda x: "features"}, "fails on an input of shape"),
        ({"classify": lambda f: f.argmax(1)}, r"\(N, classes\)"),
        ({"features": lambda x: features(x) * math.nan}, "gives NaN or Inf"),
    ],
)
def test_a_judge_that_judges_nothing_is_named(changes, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        compare_sides(toy(16, 48), toy(1, 48), jury(**changes), 48, gate_db=30.0)
    assert "mine" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_classes_count_only_where_both_mean_the_same():
    def agreement(classify, label=None):
        return compare_sides(
            toy(16, 48), toy(1, 48, error=0.1), jury(classify=classify), 48, gate_db=1.0, label=label
        ).agreement

    assert agreement(None) is None
    more = agreement(lambda f: f)
    assert (more.classes, more.artifact_asked, more.reference_asked) == (5, None, None)
    assert 0.5 < more.same < 1.0
    baked = agreement(lambda f: f[:, :3], label=2)
    drawn = features(torch.from_numpy(every_picture(48)))[:, :3].argmax(1)
    assert baked.reference_asked == pytest.approx((drawn == 2).float().mean().item())


def test_no_interval_for_a_handful_of_pictures():
    with pytest.raises(ValueError, match="at least 40"):
        compare_sides(toy(16, 39), toy(1, 39), jury(), 39, gate_db=30.0)
    with pytest.raises(ValueError, match="features"):
        measure(np.zeros((50, 3), np.float32), np.zeros((60, 3), np.float32), None)


@pytest.fixture(scope="module")
def artifact(tiny, tmp_path_factory):
    model = load_checkpoint(tiny, {"image_size": "8", "num_head_channels": "32"})
    options = ExportOptions(target="onnx", lowering=LoweringOptions(precision="fp16"), verify=None)
    request = SampleRequest(sigmas=(80.0, 1.4), batch=3)
    return export_model(model, request, options, tmp_path_factory.mktemp("distribution")).folder


def test_a_written_artefact_beside_its_checkpoint(artifact, tiny):
    judge = Jury("colours", lambda x: x.mean(dim=(2, 3)), None, None)
    found = compare_distributions(artifact, judge, None, {}, DistributionOptions(40, 3, 7), Progress())
    (report,) = found.values()
    model = load_checkpoint(tiny, {"image_size": "8", "num_head_channels": "32"})
    inputs = known.noise((1, 3, 8, 8)), known.renoise(1, (1, 3, 8, 8))
    border = Signature(inputs, known.finished((1, 3, 8, 8)))
    plain = []
    for index, run in enumerate(draw_inputs(border, 40, 3)):
        label = torch.tensor([index % 3])
        x = denoise(model, 80.0 * torch.from_numpy(run["noise"]), 80.0, label=label).clamp(-1, 1)
        x = x + np.sqrt(1.4**2 - 0.002**2) * torch.from_numpy(run["renoise"][0])
        plain.append(denoise(model, x.float(), 1.4, label=label).clamp(-1, 1).mean(dim=(2, 3))[0].detach().numpy())
    plain = np.stack(plain)
    assert report.distances.halves == pytest.approx(distance(plain[:20], plain[20:]), rel=1e-3)
    assert report.distances.artifact_reference.value < 1e-4 * report.distances.halves
    assert 60.0 < report.fidelity.mean_db < 110.0
    assert report.fidelity.gate_db == 60.0
    assert "ONNX Runtime" in report.candidate


@pytest.mark.parametrize(
    "options", [DistributionOptions(39), DistributionOptions(40, -1), DistributionOptions(40, 0, 0)]
)
def test_impossible_requests(artifact, options):
    with pytest.raises(UsageError, match="--"):
        compare_distributions(artifact, jury(), None, {}, options, Progress())


def test_a_checkpoint_of_another_shape_is_refused(artifact):
    with pytest.raises(CheckpointError, match="doesn't fit the artefact"):
        compare_distributions(
            *(artifact, jury(), str(read_manifest(artifact).checkpoint.path), {"image_size": "16"}),
            *(DistributionOptions(40), Progress()),
        )
