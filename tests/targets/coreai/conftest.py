"""Tiny random networks, lowered once per request. Nothing here imports Apple's packages by itself."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import dataclass

import pytest
from support.networks import Exported, model_around, random_weights

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.targets.coreai.runner import CoreAiRunner
from cmexport.targets.coreai.target import CoreAiTarget
from cmexport.targets.info import LoweringOptions


def _model(classes):
    config = AdmUnetConfig(
        image_size=8,
        model_channels=32,
        # One resolution: the packaged model and the command line's tests have several.
        channel_mult=(1,),
        num_res_blocks=1,
        attention_downsampling=(1,),
        num_head_channels=32,
        num_classes=classes,
    )
    return model_around(random_weights(AdmUnet(config), 0), config.image_size, classes)


@dataclass(frozen=True)
class Written(Exported):
    """A written asset with the model it came from."""

    @property
    def asset(self):
        return self.folder / "model.aimodel"

    def run(self, inputs):
        with CoreAiRunner(self.asset) as run:
            return picture_of(run(inputs))


@pytest.fixture(scope="session")
def write(tmp_path_factory):
    """A function: a small network lowered for a request; once for equal arguments."""
    made, models = {}, {}

    def run(request=None, precision="fp32", classes=10, rewrites=REWRITES):
        request = request or SampleRequest()
        key = request, precision, classes, len(rewrites)
        if key not in made:
            model = models.setdefault(classes, _model(classes))
            captured = apply_rewrites(capture(resolve(model, request)), rewrites)
            folder = tmp_path_factory.mktemp("coreai")
            lowered = CoreAiTarget().lower_one(captured, LoweringOptions(precision=precision), folder, lambda _: None)
            made[key] = Written(model, request, captured, lowered, folder)
        return made[key]

    return run
