"""Run a written asset in Apple's own runtime, which is in the package for Linux too."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from cmexport.errors import BackendError, first_line
from cmexport.runner import Array
from cmexport.targets.coreai.asset import check_asset
from cmexport.targets.coreai.library import assets, quiet_runtime, runtime

_FUNCTION = "main"
_T = TypeVar("_T")


class CoreAiRunner:
    """One asset, compiled for this machine's CPU and loaded.

    Apple's interface is asynchronous. It gets a thread with an event loop of its own: a notebook's loop is running
    already, and can't run another one inside.

    Raises:
        CheckpointError: the asset is damaged.
        BackendError: Apple's packages are missing, or the runtime refuses the asset.
    """

    def __init__(self, asset: Path) -> None:
        check_asset(asset)
        library = assets()
        self._array: Any = runtime().NDArray
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="core-ai")
        self._loop = asyncio.new_event_loop()
        self._model: Any = None
        self._function: Any = None
        try:
            with quiet_runtime():
                self._wait(self._open(library.AIModelAsset.load(asset)))
        except (RuntimeError, KeyError) as error:
            self._close()
            raise BackendError(f"{asset}: Core AI can't load it: {first_line(error)}") from error

    async def _open(self, asset: Any) -> None:
        self._model = asset.executable()
        self._function = (await self._model.__aenter__()).load_function(_FUNCTION)

    async def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        results = await self._function({name: self._array(array) for name, array in inputs.items()})
        return {name: result.numpy() for name, result in results.items()}

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the asset once on named arrays."""
        taken = {
            name: np.ascontiguousarray(a, dtype=np.int32 if a.dtype == np.int64 else None) for name, a in inputs.items()
        }
        try:
            results = self._wait(self._run(taken))
        except RuntimeError as error:
            raise BackendError(f"Core AI failed while predicting: {first_line(error)}") from error
        return dict(results)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Free the model, its compiled copy in the temporary folder, and the thread."""
        self._function = None
        if self._model is not None:
            self._wait(self._model.__aexit__(None, None, None))
            self._model = None
        self._thread.submit(self._loop.close).result()
        self._thread.shutdown()

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._thread.submit(self._loop.run_until_complete, work).result()
