"""Runs one artefact on the machine it lies on and tells what it measured, in JSON lines.

Needs Python 3.8, NumPy and the runtime; nothing of cmexport. The contract (`job.json` in, result lines out, what the
commands on standard input mean) is in bench_device/README.md.

    python3 runner.py FOLDER                 work through FOLDER/job.json; lines go to standard output
    python3 runner.py FOLDER --result FILE   lines go to FILE
    python3 runner.py --probe PATTERN...     one JSON object: the texts of the files that match
"""

from __future__ import annotations

import argparse
import base64
import gc
import importlib
import json
import math
import os
import platform
import queue
import re
import shutil
import stat
import sys
import threading
import time
from pathlib import Path

# The canary is one thread's arithmetic: BLAS with more would measure how many cores are free. The runtimes bring their
# own threads and don't look at these.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[_name] = "1"

CONTRACT = 1
VERSION = "1"
# 33 MFLOP: 0.3 to 10 ms on anything from a workstation to a Raspberry Pi, and its 768 KB fit most second-level caches.
CANARY_SIDE = 256
CANARY_RUNS = 5
# Processor time is counted in ticks of 10 ms: over less than this, two cores are not known to a tenth.
OTHERS_WINDOW_S = 0.1
LOOK_S = 0.3
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
}


class StageError(Exception):
    """Something expected went wrong; `stage` is one of "start", "load", "first", "run"."""

    def __init__(self, stage, message):
        super().__init__(message)
        self.stage = stage
        self.message = message


class Lines:
    """Where result lines go; used by two threads."""

    def __init__(self, stream):
        self._stream = stream
        self._lock = threading.Lock()

    def tell(self, kind, **fields):
        """Write one line at once."""
        text = json.dumps({"kind": kind, **fields}, allow_nan=False) + "\n"
        with self._lock:
            self._stream.write(text.encode())
            self._stream.flush()


class OnnxRuntime:
    """ONNX files in ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, job):
        self._runtime = _imported("onnxruntime", "pip install onnxruntime")
        self.version = self._runtime.__version__
        self._path = job["model"]
        wanted = job["provider"]
        self._provider = PROVIDERS.get(wanted.lower(), wanted)
        self._outputs = [output["name"] for output in job["outputs"]]
        self._threads = job["threads"]
        # Provider options belong to the provider that the artefact was made for, and to no other.
        session = job["session"]
        made_for = (session.get("providers") or [None])[0]
        self._options = (session.get("provider_options") or [{}])[0] if made_for == self._provider else {}
        self._session = None

    def open(self):
        """Make the session."""
        available = self._runtime.get_available_providers()
        if self._provider not in available:
            known = ", ".join(available)
            raise StageError("load", f"{self._provider} is not in this ONNX Runtime, which has {known}")
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        if self._threads:
            options.intra_op_num_threads = self._threads
        fallback = [] if self._provider == PROVIDERS["cpu"] else [PROVIDERS["cpu"]]
        providers = [(self._provider, self._options), *fallback]
        self._session = self._runtime.InferenceSession(self._path, options, providers=providers)

    def close(self):
        """Free the session."""
        self._session = None

    def run(self, feed):
        """One run: {output name: array}."""
        results = self._session.run(self._outputs, feed)
        return {name: results[index] for index, name in enumerate(self._outputs)}

    def realized(self):
        """Return the provider that got the graph."""
        return self._session.get_providers()[0]

    def threads(self):
        """Threads of one run; the runtime's own choice is one per core."""
        return self._threads or _physical_cores()


COMPUTE_UNITS = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE", "all": "ALL", "auto": "ALL"}


class CoreML:
    """Core ML packages, on a Mac."""

    name = "coreml"

    def __init__(self, job):
        if platform.system() != "Darwin":
            raise StageError("start", f"Core ML packages run on macOS; this is {platform.system()}")
        self._tools = _imported("coremltools", "pip install coremltools")
        self.version = platform.mac_ver()[0]
        self._path = job["model"]
        self._units = COMPUTE_UNITS.get(job["provider"].lower())
        if self._units is None:
            raise StageError(
                "start", "unknown compute unit {}; known: {}".format(job["provider"], sorted(COMPUTE_UNITS))
            )
        self._function = job["function"]
        self._outputs = [output["name"] for output in job["outputs"]]
        self._model = None

    def open(self):
        """Compile and load."""
        extra = {"function_name": self._function} if self._function else {}
        units = getattr(self._tools.ComputeUnit, self._units)
        self._model = self._tools.models.MLModel(self._path, compute_units=units, **extra)

    def close(self):
        """Free the model."""
        self._model = None

    def run(self, feed):
        """One run: {output name: array}."""
        return self._model.predict(feed)

    def realized(self):
        """None: Core ML tells placement only through its compute plan, which this runner does not read."""

    def threads(self):
        """None: Core ML's own affair."""


BACKENDS = {"onnx": OnnxRuntime, "coreml": CoreML}


def _imported(name, remedy):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StageError("start", f"{sys.executable} has no {name} ({error}); there: {remedy}") from None


def _physical_cores():
    """Cores that ONNX Runtime counts for its default: physical ones, as far as Linux tells."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:
        return os.cpu_count() or 1
    siblings = set()
    for cpu in usable:
        path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.add(_text(path) or str(cpu))
    return len(siblings)


def _text(path):
    try:
        with Path(path).open(errors="replace") as file:
            return file.read(65536).strip("\0\n ")
    except OSError:
        return None


def _glob(pattern):
    return [str(path) for path in Path("/").glob(pattern.lstrip("/"))]


def _number(path, scale=1.0):
    try:
        return float(_text(path)) * scale
    except (TypeError, ValueError):
        return None


class Memory:
    """Resident megabytes of this process."""

    def __init__(self):
        self._status = "/proc/self/status"
        self._linux = Path(self._status).exists()

    def now(self):
        """Resident now, None where the system does not tell."""
        return self._field("VmRSS") if self._linux else None

    def peak(self):
        """Return the most memory so far."""
        if self._linux:
            return self._field("VmHWM")
        try:
            resource = importlib.import_module("resource")
        except ImportError:
            return None
        # macOS counts bytes, everybody else kilobytes.
        unit = 1.0 if platform.system() == "Darwin" else 1024.0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

    def method(self):
        """In words."""
        return "VmRSS and VmHWM of /proc/self/status" if self._linux else "ru_maxrss of getrusage"

    def _field(self, name):
        found = re.search(rf"^{name}:\s+(\d+) kB", _text(self._status) or "", re.M)
        return int(found.group(1)) * 1024 / 1e6 if found else None


def _celsius():
    """Read the warmest of the kernel's thermal zones; a sensor that is off reads far below zero, or 0."""
    found = [_number(path, 1e-3) for path in _glob("/sys/class/thermal/thermal_zone*/temp")]
    plausible = [value for value in found if value is not None and 0.0 < value < 150.0]
    return max(plausible) if plausible else None


def _power():
    supplies = _glob("/sys/class/power_supply/*")
    kinds = {path: (_text(path + "/type") or "").lower() for path in supplies}
    online = [kind for path, kind in kinds.items() if _text(path + "/online") == "1" and kind != "battery"]
    batteries = [path for path, kind in kinds.items() if kind == "battery" and _text(path + "/scope") != "Device"]
    charger = None
    if online:
        charger = "ac" if online[0] == "mains" else online[0]
    elif batteries:
        charger = "none"
    percent = _number(batteries[0] + "/capacity") if batteries else None
    return {
        "charger": charger,
        "battery_percent": percent if percent is not None and 0 <= percent <= 100 else None,
        "low_power_mode": None,
        "power_mode": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "airplane_mode": None,
        "screen_on": None,
    }


def _device():
    cpuinfo = _text("/proc/cpuinfo") or ""
    fields = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    flags = (fields.get("flags") or fields.get("features") or "").split()
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = None
    model = _text("/proc/device-tree/model") or _text("/sys/class/dmi/id/product_name")
    return {
        "model": model or None,
        "processor": fields.get("model name") or fields.get("hardware") or platform.processor() or None,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "accelerator": None,
        "features": flags,
        "power": _power(),
        "facts": {"python": platform.python_version(), "libc": " ".join(platform.libc_ver()).strip()},
    }


def _array(numpy, folder, spec, file):
    dtype = numpy.dtype(spec["dtype"]).newbyteorder("<")
    shape = tuple(spec["shape"])
    if Path(folder, file).exists() and not Path(folder, file).is_file():
        raise StageError("start", f"{file} is no regular file")
    try:
        flat = numpy.fromfile(str(Path(folder, file)), dtype=dtype)
    except OSError as error:
        raise StageError("start", f"{file}: {error.strerror}") from None
    if flat.size != math.prod(shape):
        raise StageError("start", f"{file} holds {flat.size} numbers, not {math.prod(shape)}")
    return flat.reshape(shape).astype(spec["dtype"])


class Commands(threading.Thread):
    """Reads standard input; its end ends the process, whatever it is doing, and removes the folder `remove`."""

    def __init__(self, descriptor, remove):
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._remove = remove
        self._queue = queue.Queue()
        self.start()

    def run(self):
        """Collect lines until the other side is gone."""
        rest = b""
        while True:
            try:
                piece = os.read(self._descriptor, 65536)
            except OSError:
                piece = b""
            if not piece:
                if self._remove:
                    shutil.rmtree(self._remove, ignore_errors=True)
                os._exit(3)
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                if line.strip() == b'{"do": "quit"}':
                    os._exit(0)
                self._queue.put(line)

    def __iter__(self):
        while True:
            yield json.loads(self._queue.get().decode())


class Watcher(threading.Thread):
    """Tells the text of some files again and again."""

    def __init__(self, lines, files, interval_ms):
        super().__init__(daemon=True)
        self._lines = lines
        self._files = files
        self._interval_s = max(interval_ms, 5) / 1000.0
        self._over = threading.Event()

    def run(self):
        """Until `stop`."""
        while not self._over.wait(self._interval_s):
            self._lines.tell("raw", t_s=time.monotonic(), texts={path: _text(path) for path in self._files})

    def stop(self):
        """End after the present reading."""
        self._over.set()
        if self.is_alive():
            self.join()


class Others:
    """What share of the processor's time other programs have, on the cores this process may use."""

    # /proc/stat: user nice system idle iowait irq softirq steal; guests are part of user.
    _AT_WORK = (0, 1, 2, 5, 6, 7)

    def __init__(self):
        try:
            self._cores = os.sched_getaffinity(0)
            self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
        except (AttributeError, ValueError, OSError):
            self._cores = None

    def reading(self):
        """(moment, seconds of everybody, seconds of this process); None where the system does not tell."""
        lines = (_text("/proc/stat") or "").splitlines() if self._cores else []
        ticks = found = 0
        for line in lines:
            name, _, rest = line.partition(" ")
            if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in self._cores:
                fields = rest.split()
                ticks += sum(int(fields[index]) for index in self._AT_WORK if index < len(fields))
                found += 1
        if not found:
            return None
        return time.monotonic(), ticks * self._tick_s, time.process_time(), found

    def share(self, since):
        """Of the time since a reading, 0 to 1; None where unknown or too short to tell by ticks of 10 ms."""
        now = self.reading()
        if since is None or now is None or now[0] - since[0] < OTHERS_WINDOW_S:
            return None
        others = (now[1] - since[1]) - (now[2] - since[2])
        return min(1.0, max(0.0, others / ((now[0] - since[0]) * now[3])))


def _why_others(share):
    return {} if share is not None else {"others": "no /proc/stat, or too short a time to tell"}


class Bench:
    """One artefact from its job to its last line."""

    def __init__(self, folder, job, lines):
        self._lines = lines
        self._job = job
        numpy = _imported("numpy", "pip install numpy")
        self._numpy = numpy
        job["model"] = str(Path(folder, job["model"]))
        if job["target"] not in BACKENDS:
            raise StageError("start", "the Python runner runs {}, not {}".format(" and ".join(BACKENDS), job["target"]))
        self._backend = BACKENDS[job["target"]](job)
        specs = {spec["name"]: spec for spec in job["inputs"]}
        self._runs = [
            {name: _array(numpy, folder, specs[name], file) for name, file in run.items()} for run in job["runs"]
        ]
        self._memory = Memory()
        self._others = Others()
        self._canary = numpy.full((CANARY_SIDE, CANARY_SIDE), 0.5, numpy.float32)
        self._watcher = Watcher(lines, job["watch"]["files"], job["watch"]["interval_ms"])

    def open(self):
        """Do steps 1 to 4 of the contract."""
        before = self._memory.now()
        self._before = before
        for cold in (True, False):
            start = time.perf_counter()
            try:
                self._backend.open()
            except StageError:
                raise
            except Exception as error:
                raise StageError("load", _sentence(error)) from None
            spent = time.perf_counter() - start
            if cold:
                self._meta()
            self._lines.tell("load", ms=spent * 1e3, cold=cold)
            if cold:
                self._backend.close()
                gc.collect()
        start = time.perf_counter()
        try:
            self._backend.run(self._runs[0])
        except Exception as error:
            raise StageError("first", _sentence(error)) from None
        self._lines.tell("first", ms=(time.perf_counter() - start) * 1e3)
        for index, run in enumerate(self._runs):
            for name, array in self._guarded(run).items():
                self._output(index, name, array)
        self._heat()
        if self._job["watch"]["files"]:
            self._watcher.start()

    def serve(self, commands):
        """Do as told until told to finish."""
        self._lines.tell("ready")
        for command in commands:
            what = command["do"]
            if what == "warmup":
                self.warmup(command["runs"])
                self._lines.tell("ready")
            elif what == "samples":
                limit = command.get("limit", 0.0)
                self.samples(command["runs"], command["seconds"], command["repeat"], command["round"], limit)
            elif what == "look":
                self.look(command["when"])
            elif what == "minute":
                self.minute(command["minute"], command["seconds"])
            elif what == "idle":
                start = time.monotonic()
                time.sleep(command["seconds"])
                self._lines.tell("idle", start_s=start, end_s=time.monotonic())
            elif what == "finish":
                break
        self.finish()

    def alone(self):
        """Everything in one go."""
        job = self._job
        if job["watch"]["files"]:
            self._idle()
        self.look("before")
        self.warmup(job["warmup"])
        for repeat in range(job["repeats"]):
            self.samples(job["min_runs"], job["min_seconds"], repeat, 0, job.get("max_seconds", 0.0))
        self.look("after")
        for minute in range(math.ceil(job["sustained_minutes"])):
            self.minute(minute, min(60.0, 60.0 * (job["sustained_minutes"] - minute)))
        if job["watch"]["files"]:
            self._idle()
        self.finish()

    def warmup(self, runs):
        """Run without timing."""
        for _ in range(runs):
            self._guarded(self._runs[0])

    def look(self, when):
        """Look what others do while this process does nothing, and time the canary."""
        start = self._others.reading()
        time.sleep(LOOK_S)
        share = self._others.share(start)
        canary = self._canaries()
        self._lines.tell("look", when=when, others=share, canary_ms=canary, why=_why_others(share))

    def samples(self, runs, seconds, repeat, number, limit):
        """Time runs: at least so many, for at least so long, but not longer than `limit` seconds if that isn't 0."""
        since = self._others.reading()
        canary = self._canaries()
        start_s, times = self._timed(runs, seconds, limit)
        end_s = time.monotonic()
        canary += self._canaries()
        share = self._others.share(since)
        self._lines.tell(
            "samples",
            repeat=repeat,
            round=number,
            ms=times,
            canary_ms=canary,
            start_s=start_s,
            end_s=end_s,
            others=share,
            why=_why_others(share),
        )

    def minute(self, number, seconds):
        """One minute of back-to-back runs."""
        canary = self._canaries()
        _, times = self._timed(1, seconds, 0.0)
        canary += self._canaries()
        celsius = _celsius()
        why = {} if celsius is not None else {"celsius": "no readable thermal zone"}
        self._lines.tell("minute", minute=number, ms=times, canary_ms=canary, celsius=celsius, why=why)

    def finish(self):
        """Do step 7 of the contract."""
        self._watcher.stop()
        after, peak = self._memory.now(), self._memory.peak()
        why = {
            name: "this system does not tell a process its resident memory without further libraries"
            for name, value in (("before_mb", self._before), ("peak_mb", peak), ("after_mb", after))
            if value is None
        }
        self._lines.tell(
            "memory", before_mb=self._before, peak_mb=peak, after_mb=after, method=self._memory.method(), why=why
        )
        self._heat()
        self._lines.tell("done")

    def _timed(self, runs, seconds, limit):
        run, feed, clock = self._backend.run, self._runs[0], time.perf_counter
        times = []
        start_s = time.monotonic()
        begin = clock()
        try:
            while len(times) < runs or clock() - begin < seconds:
                if limit and times and clock() - begin >= limit:
                    break
                start = clock()
                run(feed)
                times.append((clock() - start) * 1e3)
        except Exception as error:
            raise StageError("run", _sentence(error)) from None
        return start_s, times

    def _guarded(self, feed):
        try:
            return self._backend.run(feed)
        except Exception as error:
            raise StageError("run", _sentence(error)) from None

    def _canaries(self):
        """Time the canary but for the first product after a run, which finds cold caches and threads still awake."""
        times = []
        for _ in range(CANARY_RUNS + 1):
            start = time.perf_counter()
            self._canary @ self._canary
            times.append((time.perf_counter() - start) * 1e3)
        return times[1:]

    def _idle(self):
        start = time.monotonic()
        time.sleep(2.5)
        self._lines.tell("idle", start_s=start, end_s=time.monotonic())

    def _meta(self):
        realized = self._backend.realized()
        why = {} if realized else {"realized": f"{self._backend.name} does not tell"}
        threads = self._backend.threads()
        if threads is None:
            why["threads"] = f"{self._backend.name} does not tell"
        why["placement"] = f"{self._backend.name} does not tell without a profile"
        self._lines.tell(
            "meta",
            contract=CONTRACT,
            runner="python",
            runner_version=VERSION,
            runtime=self._backend.name,
            runtime_version=self._backend.version,
            realized=realized,
            threads=threads,
            placement=None,
            fallback_ops=[],
            tools={"python": platform.python_version(), "numpy": self._numpy.__version__},
            device=_device(),
            why=why,
        )

    def _heat(self):
        celsius = _celsius()
        why = {"status": "Linux and macOS give this runner no word for it", "throttled": "no such word here"}
        if celsius is None:
            why["celsius"] = "no readable thermal zone"
        self._lines.tell("thermal", t_s=time.monotonic(), celsius=celsius, status=None, throttled=None, why=why)

    def _output(self, run, name, array):
        array = self._numpy.ascontiguousarray(array)
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        self._lines.tell(
            "output",
            run=run,
            name=name,
            dtype=str(array.dtype),
            shape=list(array.shape),
            data=base64.b64encode(raw).decode(),
        )


def _sentence(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


def _probe(patterns, stream):
    paths = sorted({path for pattern in patterns for path in _glob(pattern)})
    found = {"python": platform.python_version(), "files": {path: _text(path) for path in paths}, "modules": {}}
    # Core ML's tools print a page when they are imported off a Mac, and are of no use there.
    for name in ("numpy", "onnxruntime", *(["coremltools"] if platform.system() == "Darwin" else [])):
        try:
            found["modules"][name] = str(getattr(importlib.import_module(name), "__version__", "?"))
        except Exception:
            found["modules"][name] = None
    found["device"] = _device()
    stream.write(json.dumps(found).encode() + b"\n")
    stream.flush()


def _own_stdout():
    """Libraries print; standard output is for lines, so theirs goes to standard error."""
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "wb")


def _is_pipe(descriptor):
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def main(arguments):
    """Entry point; 0 done, 1 an `error` line was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--result")
    parser.add_argument("--remove", metavar="FOLDER", help="removed when standard input ends too early")
    parser.add_argument("--probe", nargs="+", metavar="PATTERN")
    given = parser.parse_args(arguments)
    if given.probe:
        _probe(given.probe, _own_stdout())
        return 0
    if not given.folder:
        parser.error("a folder is needed")
    if Path(given.folder, "job.json").exists() and not Path(given.folder, "job.json").is_file():
        parser.error("job.json is no regular file")
    try:
        return _work(given)
    except BrokenPipeError:
        # Nobody listens any more. This can be noticed before standard input ends, and nobody else cleans up then.
        if given.remove:
            shutil.rmtree(given.remove, ignore_errors=True)
        return 3


def _work(given):
    """Do what job.json says; 0 done, 1 an `error` line was written."""
    commands = Commands(0, given.remove) if _is_pipe(0) else None
    stream = Path(given.result).open("wb") if given.result else _own_stdout()  # noqa: SIM115 - open to the end
    lines = Lines(stream)
    try:
        job = json.loads(Path(given.folder, "job.json").read_text())
        if job["contract"] != CONTRACT:
            raise StageError("start", "job.json has contract {}, this runner {}".format(job["contract"], CONTRACT))
        bench = Bench(given.folder, job, lines)
        bench.open()
        if job["mode"] == "served":
            if commands is None:
                raise StageError("start", "served, but standard input is not a pipe")
            bench.serve(commands)
        else:
            bench.alone()
    except StageError as failure:
        lines.tell("error", stage=failure.stage, message=failure.message)
        return 1
    except BrokenPipeError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        lines.tell("error", stage="start", message=f"{type(error).__name__}: {_sentence(error)}")
        return 1
    return 0


if __name__ == "__main__":
    _code = main(sys.argv[1:])
    sys.stderr.flush()
    # Threads that read are left behind on purpose: the interpreter's own way out would wait for them.
    os._exit(_code)
