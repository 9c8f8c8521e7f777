"""Run a saved Core ML program on any system: what is on disk, operation by operation, on torch."""

from cmexport.targets.coreml.executor.interpreter import Executor
from cmexport.targets.coreml.executor.modes import MODES
from cmexport.targets.coreml.executor.placement import describe_placement
from cmexport.targets.coreml.executor.program import MilProgram
from cmexport.targets.coreml.executor.reading import read_program

__all__ = ["MODES", "Executor", "MilProgram", "describe_placement", "read_program"]
