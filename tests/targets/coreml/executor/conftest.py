"""Small programs, written operation by operation with coremltools' builder, saved, read back and executed."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import itertools
import shutil

import numpy as np
import pytest
import torch

from cmexport.targets.coreml.executor import Executor, read_program
from cmexport.targets.coreml.library import coremltools


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ct():
    return coremltools()


@pytest.fixture(scope="session")
def mb(ct):
    from coremltools.converters.mil.mil import Builder

    return Builder


@pytest.fixture(scope="session")
def save_mil(ct, tmp_path_factory):
    """`save_mil(build, inputs)` writes a package whose program is exactly what `build` writes: no pass touches it."""
    from coremltools.converters.mil.mil import Builder, Function, Program, types

    kinds = {
        "float32": types.fp32,
        "float16": types.fp16,
        "int32": types.int32,
        "bool": types.bool,
        "int8": types.int8,
        "uint8": types.uint8,
    }
    folder, numbers = tmp_path_factory.mktemp("programs"), itertools.count()

    def save(build, inputs, ios=17):
        target = getattr(ct.target, f"iOS{ios}")
        program = Program()
        placeholders = {k: Builder.placeholder(shape=v.shape, dtype=kinds[v.dtype.name]) for k, v in inputs.items()}
        with Function(placeholders, opset_version=target) as function:
            function.set_outputs(list(build(**function.inputs)))
        program.add_function("main", function)
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT32,
            compute_units=ct.ComputeUnit.CPU_ONLY,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        path = folder / f"{next(numbers)}.mlpackage"
        model.save(str(path))
        return path

    return save


@pytest.fixture(scope="session")
def run_mil(save_mil):
    """`run_mil(build, inputs)` gives the outputs in order, as torch tensors."""

    def run(build, inputs, ios=17, mode="ideal"):
        path = save_mil(build, inputs, ios)
        program = read_program(path)
        outputs = Executor(program, mode=mode)(inputs)
        shutil.rmtree(path)
        return [torch.from_numpy(outputs[name]) for name in program.functions["main"].outputs]

    return run


@pytest.fixture(scope="session")
def check(run_mil):
    """`check(build, inputs, expected)` compares every output with its oracle at 1e-5, relative above 1."""

    def compare(build, inputs, expected, ios=17, tolerance=1e-5):
        results = run_mil(build, inputs, ios)
        assert len(results) == len(expected)
        for index, (result, oracle) in enumerate(zip(results, expected, strict=True)):
            wanted = oracle if isinstance(oracle, torch.Tensor) else torch.from_numpy(np.array(oracle))
            # MIL has no output of rank 0: such results are returned as (1,) or ().
            assert tuple(result.shape) == tuple(wanted.shape), f"output {index}"
            torch.testing.assert_close(
                result.double(),
                wanted.double(),
                rtol=tolerance,
                atol=tolerance,
                msg=lambda m, i=index: f"output {i}: {m}",
            )

    return compare


@pytest.fixture(scope="session")
def normal():
    """`normal(seed, *shape)` is float32 noise."""

    def draw(seed, *shape):
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    return draw
