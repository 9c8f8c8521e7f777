"""Everything that can go wrong, as one closed family of six."""

from __future__ import annotations

from pathlib import Path


class KitError(Exception):
    """Base of the six."""


class ModelMissing(KitError):
    """A file of the model is not where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: missing; unpack the kit again")
        self.path = path


class ModelDamaged(KitError):
    """A file of the model is not the one that was exported."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: not the file that was exported (size or SHA-256 differs); unpack the kit again")
        self.path = path


class RuntimeFailed(KitError):
    """ONNX Runtime refused the model or a run of it; the message is its own."""


class BadInput(KitError):
    """An argument doesn't fit the model; the message says which, and what would."""


class Cancelled(KitError):
    """The picture was given up, as asked."""

    def __init__(self) -> None:
        super().__init__("cancelled")


class SelfTestFailed(KitError):
    """A golden picture came out wrong on this machine: its PSNR in dB over bytes."""

    def __init__(self, db: float, least_db: float) -> None:
        super().__init__(f"a golden picture came out at {db:.1f} dB; {least_db:g} are needed, so don't use it here")
        self.db = db
