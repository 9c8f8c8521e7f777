"""Pools are as large as what is free, and wait quietly where others compute too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime
import pytest

from cmexport import threads
from cmexport.errors import UsageError


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores, of which others keep so many busy."""

    def make(cores: int, others: float | None, quota: float | None = None) -> None:
        monkeypatch.setattr(threads, "affinity", lambda: frozenset(range(cores)))
        monkeypatch.setattr(threads, "others_at_work", lambda: others)
        monkeypatch.setattr(threads, "cpu_quota", lambda root=None: quota)
        monkeypatch.setattr(threads, "_chosen", None)

    return make


@pytest.mark.parametrize(
    ("cores", "others", "quota", "expected"),
    [
        (2, 0.0, None, 2),
        (2, 0.3, None, 2),
        (2, 0.9, None, 1),
        (2, 2.0, None, 1),
        (8, 3.1, None, 5),
        (8, None, None, 8),
        (8, 0.0, 1.5, 1),
        # Another container's work does not eat this one's quota.
        (8, 4.0, 2.0, 2),
    ],
)
def test_what_is_free(machine, cores, others, quota, expected) -> None:
    machine(cores, others, quota)
    assert threads.default_threads({}) == expected


def test_who_asks_comes_first(machine) -> None:
    machine(8, 0.0)
    assert threads.default_threads({"OMP_NUM_THREADS": "3"}) == 3
    assert threads.default_threads({"OMP_NUM_THREADS": "4,2"}) == 4
    assert threads.default_threads({"OMP_NUM_THREADS": "many"}) == 8
    assert threads.default_threads({"OMP_NUM_THREADS": "3", "CMEXPORT_THREADS": "2"}) == 2
    for wrong in ("0", "-1", "two", "1.5"):
        with pytest.raises(UsageError, match=f"CMEXPORT_THREADS={wrong}"):
            threads.default_threads({"CMEXPORT_THREADS": wrong})


@pytest.mark.parametrize(
    ("cores", "others", "chosen", "spins"),
    [(2, 0.0, 2, True), (2, 0.5, 2, False), (2, None, 2, False), (4, 0.0, 2, False), (4, 3.0, 4, False)],
)
def test_waiting_burns_no_core_that_somebody_wants(machine, monkeypatch, cores, others, chosen, spins) -> None:
    machine(cores, others)
    monkeypatch.setattr(threads, "_chosen", chosen)
    assert threads.may_spin() is spins


def test_sessions_are_told(machine, monkeypatch, tmp_path) -> None:
    import onnx
    from onnx import TensorProto, helper

    from cmexport.onnxfile.runner import OnnxRuntimeRunner

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    made = []
    plain = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **rest: made.append(options) or plain(path, options, **rest),
    )
    for cores, others, chosen, spins in ((3, 0.0, 3, "1"), (3, 2.0, 3, "0"), (3, 0.0, 2, "0")):
        machine(cores, others)
        monkeypatch.setattr(threads, "_chosen", chosen)
        OnnxRuntimeRunner(tmp_path / "m.onnx")
        assert made[-1].intra_op_num_threads == chosen
        assert made[-1].get_session_config_entry("session.intra_op.allow_spinning") == spins


def test_pytorch_is_told(machine, monkeypatch) -> None:
    """In a process of its own: before torch is imported it is the environment that counts."""
    code = (
        "import sys; from cmexport.threads import use_threads; late = sys.argv[1] == 'late'\n"
        "if late: import torch\n"
        "use_threads(1)\nimport torch; print(torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    for when in ("late", "early"):
        command = [sys.executable, "-c", code, when]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == "1"


CGROUP_2 = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({**CGROUP_2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 1.5),
        ({**CGROUP_2, "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/docker/123\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        (
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:memory:/m\n1:cpu,cpuacct:/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/m/cpu.max": "1 100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_quotas_of_containers(tmp_path, files, quota) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.cpu_quota(tmp_path) == quota


def test_only_our_cores_count_and_not_our_own_work(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(threads, "affinity", lambda: frozenset({1}))
    (tmp_path / "proc").mkdir()

    def reading(mine: int, theirs: int) -> threads.CpuReading:
        # user nice system idle iowait irq softirq steal guest guest_nice
        (tmp_path / "proc/stat").write_text(
            f"cpu 9 9 9\ncpu0 {theirs} 0 0 0 0\ncpu1 {mine} 10 5 77 33 2 1 4 50 50\nintr 5\n"
        )
        found = threads.read_cpu(tmp_path)
        assert found is not None
        return found

    ticks = os.sysconf("SC_CLK_TCK")
    first, then = reading(0, 0), reading(3 * ticks, 9 * ticks)
    assert first.everybody_s == pytest.approx(22 / ticks)
    assert then.everybody_s - first.everybody_s == pytest.approx(3.0)
    before, after = threads.CpuReading(10.0, 100.0, 5.0), threads.CpuReading(12.0, 103.0, 6.0)
    assert threads.others_between(before, after) == pytest.approx(1.0)
    assert threads.others_between(after, after) == 0.0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat")
def test_a_busy_process_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(threads, "_before", None)
    monkeypatch.setattr(threads, "_answer", None)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        found = threads.others_at_work()
    finally:
        busy.kill()
        busy.wait()
    assert found is not None
    assert found > 0.3


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "0"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch, given, expected) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    threads.let_waiting_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
    # Set here, not by monkeypatch: the next test must not inherit it.
    os.environ.pop("GOMP_SPINCOUNT", None)
