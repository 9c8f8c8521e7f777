"""The quality of a schedule: the Fréchet distance of its pictures, drawn in parts by as many workers as there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import BackendError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.parity.inputs import draw_inputs
from cmexport.quality.features import Judge, load_judge
from cmexport.quality.frechet import Moments, add_up, frechet_distance
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner

PART = 64
"""Pictures in one piece of work: seconds on one core, and the most a stopped search loses."""
_BATCH = 16


@dataclass(frozen=True)
class Setup:
    """What a worker needs to draw and judge, as plain text: it loads the files itself.

    Attributes:
        checkpoint: as `load_checkpoint` takes it; with a cluster, a path as its machines see it.
        overrides: `--set` fields.
        features, statistics: see `features.load_judge`.
        pictures: how many pictures a score rests on.
        seed: seed of picture 0; all schedules are judged on the same noise.
        weights: see `load_checkpoint`.
    """

    checkpoint: str
    overrides: tuple[tuple[str, str], ...]
    features: str
    statistics: str | None
    pictures: int
    seed: int
    weights: str | None = None


@dataclass(frozen=True)
class Workers:
    """Who computes: `jobs` processes here (-1: one per core), or a cluster behind joblib's backend of that name."""

    jobs: int = 1
    cluster: str | None = None
    address: str | None = None


def score_schedules(
    setup: Setup,
    schedules: Sequence[tuple[float, ...]],
    workers: Workers,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[float]:
    """The Fréchet distance of each schedule's pictures from real ones.

    Raises:
        BackendError: joblib, or the cluster's library, is missing.
        UsageError, CheckpointError: see `load_checkpoint` and `features.load_judge`.
    """
    parts = [
        (s, first, min(PART, setup.pictures - first)) for s in schedules for first in range(0, setup.pictures, PART)
    ]
    moments: list[Moments] = []
    for done, result in enumerate(_in_parallel(setup, parts, workers)):
        moments.append(result)
        progress(done + 1, len(parts))
    each = len(parts) // len(schedules)
    reference = _judge(setup).reference
    return [
        frechet_distance(add_up(moments[i * each : (i + 1) * each]).gaussian, reference) for i in range(len(schedules))
    ]


def _in_parallel(setup: Setup, parts: Sequence[tuple[tuple[float, ...], int, int]], workers: Workers) -> Any:
    try:
        import joblib
    except ImportError as error:
        raise BackendError("joblib is missing: pip install 'cmexport[tune]'") from error
    alone = workers.jobs == 1 and workers.cluster is None
    with _backend(joblib, workers):
        pool = joblib.Parallel(n_jobs=workers.jobs, return_as="list" if workers.cluster else "generator")
        yield from pool(joblib.delayed(part_moments)(setup, *part, not alone) for part in parts)


def _backend(joblib: Any, workers: Workers) -> AbstractContextManager[Any]:
    """Joblib's own backends: nothing but a registration stands between us and a cluster."""
    if workers.cluster is None:
        return nullcontext()
    try:
        if workers.cluster == "ray":
            import ray
            from ray.util.joblib import register_ray

            ray.init(address=workers.address, ignore_reinit_error=True)
            register_ray()
        else:
            from distributed import Client

            Client(workers.address)
    except ImportError as error:
        package = {"ray": "ray", "dask": "'dask[distributed]'"}[workers.cluster]
        raise BackendError(f"--cluster {workers.cluster}: its library is missing; pip install {package}") from error
    except (OSError, ConnectionError) as error:
        raise BackendError(f"--cluster {workers.cluster}: no cluster at {workers.address}: {error}") from error
    context: AbstractContextManager[Any] = joblib.parallel_config(backend=workers.cluster, n_jobs=workers.jobs)
    return context


def part_moments(setup: Setup, sigmas: tuple[float, ...], first: int, count: int, one_thread: bool = False) -> Moments:
    """Moments of the features of pictures `first` .. `first + count - 1`; runs in a worker."""
    if one_thread:
        torch.set_num_threads(1)
    return judged(_model(setup), _judge(setup), sigmas, setup.seed, first, count)


def judged(
    model: ConsistencyModel, judge: Judge, sigmas: tuple[float, ...], seed: int, first: int, count: int
) -> Moments:
    """Moments of `count` pictures from `first` on; picture i comes from seed + i."""
    request = SampleRequest(sigmas=sigmas, batch=min(_BATCH, count))
    sampler = resolve(model, request)
    moments = []
    inputs = draw_inputs(sampler.signature, count, seed, first=first)
    with TorchRunner(sampler) as runner, torch.no_grad():
        for index, run in enumerate(inputs):
            start = index * request.batch
            pictures = torch.from_numpy(picture_of(runner(run)))[: count - start]
            moments.append(Moments.of(judge.features(pictures).double().numpy()))
    return add_up(moments)


@lru_cache(maxsize=1)
def _model(setup: Setup) -> ConsistencyModel:
    overrides: Mapping[str, str] = dict(setup.overrides)
    return load_checkpoint(setup.checkpoint, overrides, weights=setup.weights)


@lru_cache(maxsize=1)
def _judge(setup: Setup) -> Judge:
    return load_judge(setup.features, setup.statistics)
