"""Fixtures: tiny random networks and the demo model, lowered once per request, to be run in ONNX Runtime."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import dataclass

import onnx
import pytest
from support.networks import Exported, demo_graph, model_around, random_weights

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower


@dataclass(frozen=True)
class Written(Exported):
    """A written file with the model it came from."""

    @property
    def path(self):
        return self.folder / self.lowered.files[0]

    @property
    def proto(self):
        return onnx.load(self.path)

    def run(self, inputs, optimization="all"):
        with OnnxRuntimeRunner(self.path, optimization, threads=1) as run:
            return picture_of(run(inputs))


# For the tests of all folders: a fixture that two conftests import is one for each.
_TINY, _DEMOS = ({}, {}, {}), {}


def _unet(fields):
    return AdmUnetConfig(
        **{
            "image_size": 8,
            "model_channels": 32,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_downsampling": (2,),
            "num_head_channels": 32,
            "num_classes": 10,
            **fields,
        }
    )


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """A function: an ADM UNet with these fields, lowered with these options; once for equal arguments."""
    models, captures, made = _TINY

    def run(request=None, options=None, network=None, **fields):
        request, options = request or SampleRequest(), options or OnnxOptions()
        which = network if network is not None else tuple(sorted(fields.items()))
        if which not in models:
            config = _unet(fields)
            models[which] = model_around(
                network if network is not None else random_weights(AdmUnet(config), 0),
                config.image_size,
                config.num_classes,
            )
        model = models[which]
        plain = options.rewrites == "none"
        if (which, request, plain) not in captures:
            graph = capture(resolve(model, request))
            captures[which, request, plain] = apply_rewrites(graph, () if plain else REWRITES)
        captured = captures[which, request, plain]
        if (which, request, options) not in made:
            folder = tmp_path_factory.mktemp("onnx")
            lowered = lower(captured, options, folder, lambda _: None)
            made[which, request, options] = Written(model, request, captured, lowered, folder)
        return made[which, request, options]

    return run


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A function: the packaged demo model, lowered for the CPU at a precision and levels (none: one step)."""
    made = _DEMOS

    def run(precision, sigmas=()):
        request = SampleRequest(sigmas=sigmas)
        if (precision, request) not in made:
            model, captured = demo_graph(sigmas)
            folder = tmp_path_factory.mktemp("demo")
            lowered = lower(captured, OnnxOptions(precision=precision), folder, lambda _: None)
            made[precision, request] = Written(model, request, captured, lowered, folder)
        return made[precision, request]

    return run
