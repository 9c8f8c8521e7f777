"""The Core AI target, before it is imported."""

from __future__ import annotations

from types import MappingProxyType

from cmexport.targets.info import Library, TargetInfo

_HERE = "cmexport.targets.coreai"
_LIBRARY = Library(
    *("Core AI", "Core AI assets (beta)", ("coreai-torch", "coreai-core"), "coreai"), probe=f"{_HERE}.library:probe"
)

INFO = TargetInfo(
    name="coreai",
    title="Core AI",
    summary="Export a checkpoint to Core AI (beta), and run it in Apple's own runtime to check it.",
    help="""Beta: export a checkpoint to Core AI, Apple's successor to Core ML; Apple's own runtime runs it to check it.

    Writes the folder OUT/<name>-coreai-<precision>/ with model.aimodel, manifest.json and preview.png. An asset that
    fails its parity gate is kept as *.rejected and the exit code is 4. Several tasks (--task generate,inpaint) make an
    asset each. Off a Mac the runtime is slow (the demo model: one second a picture, 4.5 with --fp16): --seeds 8
    compares fewer. Needs pip install 'cmexport[coreai]': pre-releases whose format may still change.
    """,
    suffix=".aimodel",
    precisions=("fp32", "fp16"),
    loader=f"{_HERE}.target:CoreAiTarget",
    libraries=(
        Library(
            "Core AI", "Core AI assets (beta)", ("coreai-torch", "coreai-core"), "coreai", f"{_HERE}.library:probe"
        ),
    ),
    verified_by="Apple's own runtime",
    scope="Run by Apple's own runtime, a pre-release, on this machine's CPU; its GPU and Neural Engine kernels were "
    "not run.",
    integers="int32",
    help_of=MappingProxyType({"precision": "The same by name: fp32 (default) or fp16."}),
)
