"""A Python package: NumPy and ONNX Runtime, nothing else."""

from cmexport.kits.platforms.info import Platform

PLATFORM = Platform(
    name="python",
    title="Python",
    target="onnx",
    model_folder="src/@snake@/model",
    golden_folder="src/@snake@/golden",
)
