"""Tiny random networks, lowered once per request, and a look into the written package that shares nothing with ours."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections import Counter
from dataclasses import dataclass

import pytest

pytest.importorskip("coremltools")

from support.networks import Exported, model_around, random_weights

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.coreml.lower import lower
from cmexport.targets.coreml.runner import ExecutorRunner


def specification(package):
    """The package's protobuf message, by coremltools' own classes."""
    from coremltools.proto import Model_pb2

    message = Model_pb2.Model()
    message.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    return message


def operations(package, function="main"):
    """(type, output shapes, output types) of every operation but constants."""
    (block,) = specification(package).mlProgram.functions[function].block_specializations.values()
    found = []
    for op in block.operations:
        types = [o.type.tensorType for o in op.outputs]
        shapes = [tuple(d.constant.size for d in t.dimensions) for t in types]
        if op.type != "const":
            found.append((op.type, shapes, [t.dataType for t in types]))
    return found


@dataclass(frozen=True)
class Written(Exported):
    """A written package with the model it came from."""

    @property
    def package(self):
        return self.folder / "model.mlpackage"

    @property
    def counts(self):
        return Counter(kind for kind, _, _ in operations(self.package))

    def run(self, inputs, mode="ideal"):
        with ExecutorRunner(self.package, mode=mode) as run:
            return picture_of(run(inputs))


@pytest.fixture(scope="session")
def small_model():
    """A function: a model around an ADM UNet with these fields; once for equal ones."""
    made = {}

    def build(**fields):
        key = tuple(sorted(fields.items()))
        if key not in made:
            config = AdmUnetConfig(
                **{
                    "image_size": 8,
                    "model_channels": 32,
                    "channel_mult": (1, 2),
                    "num_res_blocks": 1,
                    "attention_downsampling": (),
                    "num_head_channels": 32,
                    "num_classes": 10,
                    **fields,
                }
            )
            network = random_weights(AdmUnet(config), 0)
            made[key] = model_around(network, config.image_size, config.num_classes, channels=config.in_channels)
        return made[key]

    return build


@pytest.fixture(scope="session")
def rewritten(small_model):
    """A function: the captured graph of a request after the general rewrites, with its model."""
    made = {}

    def build(request, **fields):
        key = request, tuple(sorted(fields.items()))
        if key not in made:
            model = small_model(**fields)
            made[key] = model, apply_rewrites(capture(resolve(model, request)), REWRITES)
        return made[key]

    return build


@pytest.fixture(scope="session")
def export(rewritten, tmp_path_factory):
    """A function: a small network lowered with these options; once for equal arguments."""
    made = {}

    def run(request=None, options=None, **fields):
        request, options = request or SampleRequest(), options or CoreMlOptions()
        key = request, options, tuple(sorted(fields.items()))
        if key not in made:
            model, captured = rewritten(request, **fields)
            folder = tmp_path_factory.mktemp("coreml")
            lowered = lower(captured, options, folder, lambda _: None)
            made[key] = Written(model, request, captured, lowered, folder)
        return made[key]

    return run


@pytest.fixture(scope="session")
def spec():
    """See `specification`."""
    return specification


@pytest.fixture(scope="session")
def ops_of():
    """See `operations`."""
    return operations
