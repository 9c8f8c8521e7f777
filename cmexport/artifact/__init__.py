"""The artefact: a folder that explains itself, written whole or not at all."""

from cmexport.artifact.golden import Golden, read_arrays, write_golden
from cmexport.artifact.manifest import Manifest
from cmexport.artifact.metadata import metadata_props
from cmexport.artifact.parity_record import ParityRecord
from cmexport.artifact.preview import write_grid, write_preview, write_row, write_way
from cmexport.artifact.reading import artifact_folder, check_files, describe_file, read_manifest, write_manifest
from cmexport.artifact.replacing import Replacement, Subject
from cmexport.artifact.writing import StagedFolder, artifact_name, reject_name, staged_folder, write_atomically

__all__ = [
    "Golden",
    "Manifest",
    "ParityRecord",
    "Replacement",
    "StagedFolder",
    "Subject",
    "artifact_folder",
    "artifact_name",
    "check_files",
    "describe_file",
    "metadata_props",
    "read_arrays",
    "read_manifest",
    "reject_name",
    "staged_folder",
    "write_atomically",
    "write_golden",
    "write_grid",
    "write_manifest",
    "write_preview",
    "write_row",
    "write_way",
]
