"""The models that are measured. A subject is a checkpoint file; everything else follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from cmexport.demo import demo_checkpoint
from cmexport.networks.adm_unet import AdmUnetConfig

IMAGENET64 = AdmUnetConfig(
    image_size=64,
    model_channels=192,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=3,
    attention_downsampling=(2, 4, 8),
    num_classes=1000,
    num_head_channels=64,
)
TINY = AdmUnetConfig(
    image_size=8,
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_downsampling=(2,),
    num_classes=3,
    num_head_channels=32,
)


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: key, and part of file names.
        title: what the tables call it.
        checkpoint: given a folder for files to be made, where the checkpoint lies.
        overrides: settings that the checkpoint's file name does not imply.
    """

    name: str
    title: str
    checkpoint: Callable[[Path], Path]
    overrides: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def random_checkpoint(path: Path, config: AdmUnetConfig) -> Path:
    """Write random weights in OpenAI's keys (PyTorch's default initialization, so no layer is zero)."""
    import torch

    from cmexport.networks.adm_unet import AdmUnet

    if not path.exists():
        torch.manual_seed(0)
        torch.save(AdmUnet(config).state_dict(), path)
    return path


SUBJECTS: Mapping[str, Subject] = MappingProxyType(
    {
        "demo": Subject("demo", "demo model (CIFAR-10, 32 x 32)", lambda _: demo_checkpoint()),
        "imagenet64": Subject(
            "imagenet64",
            "ImageNet-64 architecture (random weights)",
            lambda folder: random_checkpoint(folder / "cd_imagenet64_random.pt", IMAGENET64),
        ),
        "tiny": Subject(
            "tiny",
            "tiny random network, for testing the harness",
            lambda folder: random_checkpoint(folder / "cd_tiny.pt", TINY),
            MappingProxyType({"image_size": "8", "num_head_channels": "32"}),
        ),
    }
)
