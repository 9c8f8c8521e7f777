"""Build an engine from a typed ONNX file: one code path for TensorRT for RTX, TensorRT 10 and TensorRT 11."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmexport.errors import BackendError, CheckpointError, OutputError, UsageError
from cmexport.targets.base import Progress
from cmexport.targets.tensorrt.info import TensorRtOptions
from cmexport.targets.tensorrt.layers import HEADING, EngineLayers, parse_layers, write_layers
from cmexport.targets.tensorrt.library import Library, check_sms

COMPATIBILITIES = ("version", "hardware")

# The oldest GPUs that have a type at all; the builder refuses others, after it has parsed the whole network.
_LEAST_SM = {"bf16": 80, "fp8": 89}
_PORTABLE_SM = 80
"""Built for without `--sm`: Ampere and later, which is the library's own default too. Turing must be asked for."""

_WAIT_S = 0.1


@dataclass(frozen=True)
class EngineRequest:
    """What an engine is to be.

    Attributes:
        precision: what the ONNX file holds; only to refuse GPUs that don't have it.
        sms: compute capabilities, 86 for 8.6; TensorRT for RTX only. Empty: all from 8.0 that have the types.
        version_compatible: later TensorRT of the same major version (11: also a 10.x engine) may load it.
        hardware_compatible: any GPU from Ampere on may load it, not only the kind it was built on.
        refit: weights can be put into it later.
        strip: it is written without weights, which are put in when it is loaded.
        timing_cache: file with measured kernel times, read and written; TensorRT 10 and 11 only.
    """

    precision: str = "fp32"
    sms: tuple[int, ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    strip: bool = False
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """An engine on disk; `facts` is plain data for the manifest."""

    path: Path
    layers: EngineLayers | None
    facts: Mapping[str, Any]


def engine_request(library: Library, options: TensorRtOptions) -> EngineRequest:
    """What the options ask of a library.

    Raises:
        UsageError: the library can't do it, whatever the network.
        BackendError: it knows no GPU of such a compute capability.
    """
    if unknown := [c for c in options.compat if c not in COMPATIBILITIES]:
        raise UsageError(f"--compat {unknown[0]}: known are {', '.join(COMPATIBILITIES)}")
    check_sms(library, options.sm)
    least = _LEAST_SM.get(options.precision, 0)
    if old := [sm for sm in options.sm if sm < least]:
        raise UsageError(f"--sm {old[0]}: this GPU has no {options.precision}; it needs {least} or later")
    if library.rtx and "hardware" in options.compat:
        raise UsageError(f"--compat hardware: engines of {library.title} run on every GPU in --sm as they are")
    if library.rtx and options.timing_cache is not None:
        raise UsageError(f"--timing-cache: {library.title} times nothing while it builds; it is for --trt 10 and 11")
    return EngineRequest(
        precision=options.precision,
        sms=options.sm or tuple(sm for sm in library.sms if sm >= max(least, _PORTABLE_SM)),
        version_compatible="version" in options.compat,
        hardware_compatible="hardware" in options.compat,
        refit=options.refit,
        strip=options.strip,
        timing_cache=options.timing_cache,
    )


def build_engine(
    library: Library, onnx_file: Path, request: EngineRequest, engine: Path, progress: Progress
) -> BuiltEngine:
    """Build `engine` and the description of its layers from a strongly typed ONNX file.

    Ctrl-C stops the builder at its next step; nothing is written then.

    Raises:
        CheckpointError: the file is not ONNX that this TensorRT can parse.
        BackendError: the builder refuses the network, or needs a GPU for what is asked.
        OutputError: the timing cache can't be written.
        OSError: the engine can't be written.
    """
    log = _new_log(library)
    trt = library.module
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(library))
    parser = trt.OnnxParser(network, log)
    progress(f"parse for {library.title}")
    if not parser.parse_from_file(str(onnx_file)):
        reasons = [parser.get_error(i) for i in range(parser.num_errors)]
        where = f" ({reasons[0].node_name()})" if reasons and reasons[0].node_name() else ""
        said = _sentence(reasons[0].desc()) if reasons else "no reason given"
        raise CheckpointError(f"{onnx_file}: {library.title} can't parse this ONNX file: {said}{where}")
    config = builder.create_builder_config()
    flags = _configure(library, config, request)
    cache = _open_cache(config, request)
    plan = _build(builder, network, config, _new_monitor(library, progress))
    if plan is None:
        raise BackendError(f"{onnx_file.name}: {_refusal(library, request, log)}")
    with engine.open("wb") as file:
        file.write(plan)
    if cache is not None and request.timing_cache is not None:
        _write_cache(request.timing_cache, config)
    size = engine.stat().st_size
    layers = _describe(library, engine, size, log)
    if layers is not None:
        write_layers(layers, engine)
    return BuiltEngine(engine, layers, _facts(library, request, engine.name, size, flags, log))


def _network_flags(library: Library) -> int:
    """Strongly typed, where there is another choice."""
    typed = library.flag("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
    return 0 if typed is None else 1 << int(typed)


def _configure(library: Library, config: Any, request: EngineRequest) -> list[str]:
    """Set what is asked for; the names of the flags that are set.

    Raises:
        BackendError: this version has no such flag.
    """
    trt = library.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.sms:
        config.num_compute_capabilities = len(request.sms)
        for index, sm in enumerate(request.sms):
            config.set_compute_capability(library.flag("ComputeCapability", f"SM{sm}"), index)
    # It is on unless it is cleared, and rounds operands of float32 convolutions to 10 bits: about 60 dB, not 100.
    tf32 = library.flag("BuilderFlag", "TF32")
    if tf32 is not None:
        config.clear_flag(tf32)
    wanted = {
        "VERSION_COMPATIBLE": request.version_compatible,
        # TensorRT for RTX doesn't bring the lean runtime that version-compatible engines would carry.
        "EXCLUDE_LEAN_RUNTIME": request.version_compatible and library.rtx,
        "REFIT": request.refit and not request.strip,
        "STRIP_PLAN": request.strip,
    }
    names = [name for name, asked in wanted.items() if asked]
    for name in names:
        flag = library.flag("BuilderFlag", name)
        if flag is None:
            raise BackendError(f"{library.title} has no builder flag {name}")
        config.set_flag(flag)
    if request.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    return names


def _build(builder: Any, network: Any, config: Any, monitor: Any) -> Any:
    """Build in a thread: Python handles Ctrl-C in the main one only, and not while that is inside the builder."""
    config.progress_monitor = monitor
    found: list[Any] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(builder.build_serialized_network(network, config))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="tensorrt-builder")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_WAIT_S)
    except BaseException:
        monitor.cancelled = True
        thread.join()
        raise
    if failed:
        raise failed[0]
    return found[0]


def _new_log(library: Library) -> Any:
    """A logger that keeps errors, warnings, figures, and the description of the finished engine.

    The class can only be made once the library is imported.
    """
    base: Any = library.module.ILogger

    class Log(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []
            self.warnings: Counter[str] = Counter()
            self.figures: dict[str, int] = {}
            self.description = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (base.Severity.ERROR, base.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == base.Severity.WARNING:
                self.warnings[_sentence(message)] += 1
            elif message.startswith(HEADING):
                self.description = message
            elif match := re.match(r"Total (Weights|Activation) Memory: (\d+) bytes", message):
                self.figures[match.group(1).lower()] = int(match.group(2))

    return Log()


def _new_monitor(library: Library, progress: Progress) -> Any:
    """Tells about the outermost phases, and stops the builder at its next step when `cancelled` is set."""
    base: Any = library.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.cancelled = False
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            if parent is None or parent not in self.steps or len(self.steps) <= 2:
                progress(f"{library.title}: {phase.lower()}")

        def step_complete(self, phase: str, step: int) -> bool:
            # A thousand layers are cloned in half a second; a line for each hundredth is as many as can be seen.
            total = self.steps.get(phase, 0)
            if total and (step + 1) % max(1, total // 100) == 0:
                progress(f"{library.title}: {phase.lower()} {step + 1}/{total}")
            return not self.cancelled

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


def _open_cache(config: Any, request: EngineRequest) -> Any:
    if request.timing_cache is None:
        return None
    try:
        content = request.timing_cache.read_bytes() if request.timing_cache.is_file() else b""
    except OSError as error:
        raise CheckpointError(f"{request.timing_cache}: can't be read: {error.strerror}") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise CheckpointError(
            f"{request.timing_cache}: not a timing cache of this TensorRT and this GPU; remove it, or name another"
        )
    return cache


def _write_cache(path: Path, config: Any) -> None:
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_bytes(bytes(config.get_timing_cache().serialize()))
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"{path}: can't be written: {error.strerror}") from error


def _describe(library: Library, engine: Path, size: int, log: Any) -> EngineLayers | None:
    layers = parse_layers(log.description)
    if not layers:
        return None
    return EngineLayers(
        engine=engine.name,
        library=library.title,
        bytes=size,
        weights_bytes=log.figures.get("weights"),
        activation_bytes=log.figures.get("activation"),
        layers=layers,
    )


def _facts(
    library: Library, request: EngineRequest, name: str, size: int, flags: list[str], log: Any
) -> Mapping[str, Any]:
    return {
        "file": name,
        "bytes": size,
        "library": library.title,
        "compute_capabilities": [f"{sm // 10}.{sm % 10}" for sm in request.sms],
        "built_for": "the GPUs listed" if request.sms else "the GPU of the machine that built it",
        "compatibility": [
            *(["version"] if request.version_compatible else []),
            *(["hardware"] if request.hardware_compatible else []),
        ],
        "builder_flags": flags,
        "strongly_typed": True,
        "stripped": request.strip,
        "warnings": [text + (f" ({count} times)" if count > 1 else "") for text, count in log.warnings.items()],
    }


def _refusal(library: Library, request: EngineRequest, log: Any) -> str:
    """Why there is no engine, in a sentence."""
    said = " ".join(log.errors)
    if (request.strip or request.refit) and "CUDA_SUCCESS" in said:
        return f"{library.title} needs a GPU to build engines whose weights can be replaced; leave out --strip, --refit"
    if "CUDA driver" in said or "cudaError" in said or "CUDA initialization" in said:
        return f"{library.title} needs a GPU and its driver to build engines, and there is none here"
    reason = _sentence(log.errors[0]) if log.errors else "it gave no reason"
    return f"{library.title} can't build this network: {reason}"


_PREFIX = re.compile(r"^.*?Error Code \d+: (?:[\w ]+ \()?")
_POSITION = re.compile(r"\s*(?:\[[\w./]+:\d+: \w+\]|In \w+ at \S+|\(In \w+ at \S+)")


def _sentence(message: str) -> str:
    """A message of the library without where in its source it arose: one line of at most 300 characters."""
    text = _POSITION.sub("", _PREFIX.sub("", message.strip().splitlines()[0] if message.strip() else "no reason"))
    return text.strip(" ().").removeprefix("[").strip()[:300]
