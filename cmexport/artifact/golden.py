"""`golden/`: a few inputs and PyTorch's pictures for them, to check an artefact without its checkpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from cmexport.artifact.manifest import GoldenRecord
from cmexport.errors import CheckpointError
from cmexport.files import require_file
from cmexport.parity.inputs import VerificationInputs, draw_inputs
from cmexport.parity.ladder import ParityReport
from cmexport.parity.metrics import compare
from cmexport.runner import Array
from cmexport.signature import Signature

MOST_BYTES = 8 * 2**20
"""Of a task's arrays: two pictures up to 418 x 418 in one step (noise and picture, float32), one up to 591 x 591."""

# Two pictures may lie below a gate that the mean over all meets; they then have to stay what they were.
_TOLERANCE_DB = 1.0


def write_golden(folder: Path, run: str, signature: Signature, report: ParityReport) -> GoldenRecord | None:
    """Keep the first pictures of a report: two, or a whole run of the graph; one if two are too large.

    Args:
        folder: the artefact.
        run: names the files.
        signature: of the written file, in its own dtypes.
        report: has the reference's pictures.

    Returns:
        None where even one run is too large.
    """
    for pictures in (2, 1):
        inputs = draw_inputs(signature, pictures, report.seed)
        arrays, expected = signature.join(inputs[:]), report.preview.reference[: inputs.pictures]
        if sum(array.nbytes for array in (*arrays.values(), expected)) <= MOST_BYTES:
            break
    else:
        return None
    mean = compare(expected, report.preview.candidate[: len(expected)]).mean_db
    below = report.passed and mean is not None and mean < report.applied_gate_db
    (folder / "golden").mkdir(exist_ok=True)
    paths = f"golden/{run}.inputs.npz", f"golden/{run}.expected.npz"
    np.savez(folder / paths[0], allow_pickle=False, **arrays)
    # As the graph gives them: heights, not the pictures that are compared.
    given = signature.output.from_pictures(expected)
    np.savez(folder / paths[1], allow_pickle=False, **{signature.output.name: given})
    return GoldenRecord(
        inputs=paths[0],
        expected=paths[1],
        pictures=len(expected),
        seed=report.seed,
        gate_db=mean - _TOLERANCE_DB if below and mean is not None else report.gate_db,
    )


class Golden:
    """The pictures of a `golden/` as a runner that gives them one run after the other, and `inputs` to run others on.

    Raises:
        CheckpointError: the files are damaged, or don't fit the signature.
    """

    def __init__(self, folder: Path, record: GoldenRecord, signature: Signature) -> None:
        runs = signature.batches(read_arrays(folder / record.inputs))
        pictures = read_arrays(folder / record.expected).get(signature.output.name)
        if pictures is None or len(pictures) != len(runs) * signature.batch:
            raise CheckpointError(f"{folder / record.expected}: not the pictures of {record.inputs}")
        self.inputs = VerificationInputs(signature, len(pictures), record.seed, recorded=tuple(runs))
        self._runs = iter(np.split(pictures, len(runs)))

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002
        """The next pictures, whatever the inputs."""
        return {self.inputs.signature.output.name: next(self._runs)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""


def read_arrays(path: Path) -> dict[str, Array]:
    """Arrays of a `.npz` file, without unpickling anything.

    Raises:
        CheckpointError: the file is missing, is no `.npz`, is damaged or holds Python objects.
    """
    require_file(path, "an .npz archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise CheckpointError(f"{path}: an .npz archive of named arrays is expected, not a single array")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a readable .npz archive: {str(error).splitlines()[0]}") from error
