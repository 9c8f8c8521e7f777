"""A phone behind adb, with a stand-in for the program: the phone is made up, the runner and its pictures are real."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmexport.bench.android.shell import AdbError, choose_serial, parse_devices
from cmexport.bench.devices.adb import AdbDevice
from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions
from cmexport.bench.devices.registry import device_named
from cmexport.bench.schema import BenchRecord
from cmexport.errors import BackendError, UsageError
from cmexport.progress import Progress

STAND_IN = Path(__file__).parents[1] / "fake_adb"
SERIAL = "STANDIN01"
Plug = Callable[..., Path]


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Make a phone: keywords change it. Gives the stand-in's folder."""

    def make(**changes: object) -> Path:
        phone = {
            "devices": {SERIAL: "device"},
            "capacity": 1_000_000_000,
            "usb": False,
            "thermal": 0,
            "airplane": "1",
            "python": True,
            "unplug_after_lines": None,
            "unplug_code": 0,
        }
        home = tmp_path / "phone"
        (home / "files/data/local/tmp").mkdir(parents=True)
        (home / "phone.json").write_text(json.dumps(phone | changes))
        monkeypatch.setenv("FAKE_ADB", str(home))
        monkeypatch.setenv("FAKE_ADB_PYTHON", sys.executable)
        monkeypatch.setenv("ADB", str(STAND_IN / "adb"))
        return home

    return make


def left_behind(home: Path) -> list[Path]:
    return list((home / "files/data/local/tmp").iterdir())


def bench(jobs: list[BenchJob], options: MeasureOptions, **reached: object) -> list[BenchRecord]:
    device = device_named(f"adb://{SERIAL}", DeviceOptions(**reached))
    return list(device.run(jobs, options, Progress()))


def test_python_on_the_phone_measures_and_gives_the_reference_pictures(
    plug: Plug, jobs: list[BenchJob], quick: MeasureOptions
) -> None:
    home = plug(usb=True, thermal=0)
    records = bench(jobs, quick)
    assert [r.artifact.name for r in records] == [job.artifact.name for job in jobs]
    for record in records:
        assert record.failure is None
        assert record.timing_ms.n >= quick.min_runs
        assert record.parity.passed is True
        assert record.energy.mj_per_image_net is None
        device = record.device
        assert (device.kind, device.name) == ("adb", f"adb://{SERIAL}")
        assert (device.model, device.processor, device.os) == (
            "Example Stand-in 1",
            "Nobody NB1234",
            "Android 14 arm64-v8a",
        )
        assert (device.cores, device.memory_bytes) == (8, 7654321 * 1024)
        assert device.power.charger == "usb"
        assert device.power.battery_percent == 67.0
        assert device.power.airplane_mode is True
        assert device.power.low_power_mode is None  # the phone answered "null"
        assert "low_power_mode" in device.power.reasons
        assert (record.thermal.status_start, record.thermal.status_end) == ("none", "none")
        # Not 99.9, which was cached; not 70.0, which is the skin; not NaN.
        assert record.thermal.celsius_start == pytest.approx(54.600002)
        assert "charging" in record.validity.flags
        assert "throttled" not in record.validity.flags
    assert records[0].parity.mean_db is None or records[0].parity.mean_db > 100.0
    assert left_behind(home) == []


def test_hot_phone_on_battery_is_flagged(plug: Plug, jobs: list[BenchJob], quick: MeasureOptions) -> None:
    plug(thermal=3, airplane="0")
    record = bench(jobs[:1], quick)[0]
    assert record.thermal.status_start == "severe"
    assert record.thermal.throttled is True
    assert {"throttled", "on_battery"} <= set(record.validity.flags)
    assert record.device.power.airplane_mode is False
    assert record.device.power.charger == "none"


@pytest.mark.parametrize("code", [0, 1, 255])
def test_unplugged_while_running_keeps_what_had_come(
    plug: Plug, jobs: list[BenchJob], quick: MeasureOptions, code: int
) -> None:
    # meta, two loads, first, four outputs, thermal, ready, look, ready after the warm-up, then batches of runs.
    home = plug(unplug_after_lines=13, unplug_code=code)
    records = bench(jobs[:1], quick)
    assert len(records) == 1
    record = records[0]
    assert record.failure is not None
    assert record.failure.stage == "connection"
    assert "was lost" in record.failure.message
    assert "disconnected" in record.validity.flags
    assert record.timing_ms.load_cold is not None
    assert record.timing_ms.n > 0
    assert record.parity.passed is True
    assert record.thermal.celsius_end is None
    assert "lost" in record.thermal.reasons["celsius_end"]
    # The phone can't be asked to clean up any more: the runner does when its input ends.
    pid = int((home / "runner.pid").read_text())
    deadline = time.monotonic() + 20
    while (Path(f"/proc/{pid}").exists() or left_behind(home)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert left_behind(home) == []


def test_unplugged_while_copying(plug: Plug, jobs: list[BenchJob], quick: MeasureOptions) -> None:
    home = plug()
    (home / "unplug_at_push").touch()
    record = bench(jobs[:1], quick)[0]
    assert record.failure is not None
    assert "disconnected" in record.validity.flags
    assert record.timing_ms.n == 0
    assert record.timing_ms.p50 is None


def test_full_phone(plug: Plug, jobs: list[BenchJob], quick: MeasureOptions) -> None:
    home = plug(capacity=60_000)
    record = bench(jobs[:1], quick)[0]
    assert record.failure is not None
    assert "no space left in /data/local/tmp" in record.failure.message
    assert "disconnected" not in record.validity.flags
    assert left_behind(home) == []


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ({SERIAL: "unauthorized"}, "accept 'Allow USB debugging"),
        ({SERIAL: "offline"}, "is offline"),
        ({SERIAL: "no permissions"}, "udev"),
        ({SERIAL: "recovery"}, "is in state recovery"),
        ({"OTHER": "device"}, r"is not there.*attached: OTHER"),
        ({}, r"is not there.*attached: none"),
    ],
)
def test_a_phone_that_cannot_be_used_is_one_sentence(plug: Plug, devices: dict[str, str], said: str) -> None:
    plug(devices=devices)
    with pytest.raises(AdbError, match=said) as refused:
        device_named(f"adb://{SERIAL}")
    assert refused.value.exit_code == 5
    assert len(str(refused.value).splitlines()) == 1


def test_the_only_device_needs_no_name_and_several_do(plug: Plug) -> None:
    plug()
    assert device_named("adb").name == f"adb://{SERIAL}"
    shutil.rmtree(os.environ["FAKE_ADB"])
    plug(devices={SERIAL: "device", "emulator-5554": "device"})
    with pytest.raises(UsageError, match=r"adb://STANDIN01 \(Stand in 1\), adb://emulator-5554"):
        device_named("adb")


def test_unauthorized_after_it_was_chosen(plug: Plug, jobs: list[BenchJob], quick: MeasureOptions) -> None:
    home = plug()
    device = device_named(f"adb://{SERIAL}")
    facts = json.loads((home / "phone.json").read_text())
    (home / "phone.json").write_text(json.dumps(facts | {"devices": {SERIAL: "unauthorized"}}))
    with pytest.raises(AdbError, match="has not allowed this computer"):
        list(device.run(jobs, quick, Progress()))


def test_phone_without_python(plug: Plug, jobs: list[BenchJob], quick: MeasureOptions) -> None:
    home = plug(python=False)
    with pytest.raises(BackendError, match="pkg install python-numpy python-onnxruntime"):
        bench(jobs, quick)
    with pytest.raises(BackendError, match="/data/x is not a Python"):
        bench(jobs, quick, python="/data/x")
    assert left_behind(home) == []


def test_perf_test_as_the_runner(plug: Plug, jobs: list[BenchJob], quick: MeasureOptions) -> None:
    home = plug()
    record = bench(jobs[:1], quick, native=STAND_IN / "onnxruntime_perf_test")[0]
    assert record.failure is None
    assert record.provenance.runner == "onnxruntime_perf_test"
    assert record.timing_ms.n == 8
    assert record.timing_ms.min == pytest.approx(15.9831)
    assert record.timing_ms.max == pytest.approx(23.2702)
    assert record.timing_ms.load_cold == pytest.approx(27.3071)
    assert record.timing_ms.first == 20.0
    assert record.timing_ms.load_warm is None
    assert record.memory_mb.peak == pytest.approx(35.299328)
    assert record.parity.passed is None
    assert "does not give its outputs" in record.parity.reasons["passed"]
    assert left_behind(home) == []


def test_a_native_runner_that_speaks_the_contract(
    plug: Plug, jobs: list[BenchJob], quick: MeasureOptions, tmp_path: Path, runner: Path
) -> None:
    home = plug()
    program = tmp_path / "runner"
    program.write_text(f'#!/bin/sh\nexec python3 {runner} "$1"\n')
    record = bench(jobs[:1], quick, native=program)[0]
    assert record.failure is None
    assert record.parity.passed is True
    assert record.timing_ms.n >= quick.min_runs
    assert left_behind(home) == []


def test_a_native_runner_that_talks_nonsense(
    plug: Plug, jobs: list[BenchJob], quick: MeasureOptions, tmp_path: Path
) -> None:
    plug()
    program = tmp_path / "runner"
    program.write_text("#!/bin/sh\necho hello\n")
    record = bench(jobs[:1], quick, native=program)[0]
    assert record.failure is not None
    assert "not JSON: hello" in record.failure.message
    assert "malformed_output" in record.validity.flags


def test_missing_native_runner(plug: Plug, jobs: list[BenchJob], quick: MeasureOptions, tmp_path: Path) -> None:
    plug()
    with pytest.raises(UsageError, match="no such file"):
        bench(jobs[:1], quick, native=tmp_path / "nothing")


def test_energy_needs_an_unplugged_phone(plug: Plug, jobs: list[BenchJob]) -> None:
    plug(usb=True)
    with pytest.raises(BackendError, match="powered by usb"):
        bench(jobs, MeasureOptions(energy="battery"))
    with pytest.raises(UsageError, match="over adb there is battery"):
        bench(jobs, MeasureOptions(energy="nvml"))


def test_describe(plug: Plug) -> None:
    plug()
    device = device_named(f"adb://{SERIAL}")
    assert isinstance(device, AdbDevice)
    record = device.describe()
    assert record.model == "Example Stand-in 1"
    assert record.power.battery_percent == 67.0


def test_no_adb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADB", raising=False)
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match="platform-tools"):
        device_named("adb")


@pytest.mark.parametrize("serial", ["a b", "x;rm -rf /", "$(id)", "-s", "a\nb"])
def test_serials_are_not_shell_words(plug: Plug, serial: str) -> None:
    plug()
    with pytest.raises((UsageError, AdbError)):
        device_named(f"adb://{serial}")


def test_real_adb_without_devices() -> None:
    """The stand-in's wording of an empty list and an unknown serial is that of the real program, where it is there."""
    program = shutil.which("adb")
    if program is None:
        pytest.skip("the program adb is not installed")
    with pytest.raises(AdbError, match="is not there"):
        choose_serial(program, "no-such-serial-cmexport")


def test_device_lists() -> None:
    text = (
        "* daemon not running; starting now at tcp:5037\n* daemon started successfully\nList of devices attached\n"
        "0123456789ABCDEF       unauthorized usb:3-1 transport_id:3\n"
        "R58M123ABC             device usb:1-1 product:beyond1 model:SM_G973F device:beyond1 transport_id:1\n"
        "192.168.1.7:5555       offline transport_id:9\n"
        "????????????           no permissions (missing udev rules? user is in the plugdev group); see [http://x]\n\n"
    )
    found = parse_devices(text)
    assert [(d.serial, d.state, d.model) for d in found] == [
        ("0123456789ABCDEF", "unauthorized", ""),
        ("R58M123ABC", "device", "SM G973F"),
        ("192.168.1.7:5555", "offline", ""),
        ("????????????", "no permissions", ""),
    ]
    assert parse_devices("") == ()
    assert parse_devices("List of devices attached\n\n") == ()
