"""Damaged and hostile files by the thousand: none runs code, hangs or exhausts memory; each ends in a sentence."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import types
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.edm_pickle import read_edm_pickle
from cmexport.checkpoints.reading import file_facts, find_weights, read_torch
from cmexport.checkpoints.safetensors_file import read_safetensors
from cmexport.errors import CheckpointError, CmexportError

# 600 + 400 + 400 + 700 + 300 = 2,400 generated cases, beside the fixed corpus below.
QUICK = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3), "b": torch.full((2, 2), 0.5).half()}


def torch_bytes(content, **kwargs):
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


ZIP, LEGACY = torch_bytes(STATE), torch_bytes(STATE, _use_new_zipfile_serialization=False)
SAFE = save(STATE)


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the reader ran the persistence hook")


class Module:
    """Pickles as a call of the published persistence hook."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        meta = {"class_name": "ECMPrecond", "module_src": "class ECMPrecond: pass", "state": self.state}
        return (_reconstruct_persistent_obj, (meta,))


def snapshot_bytes():
    """An EDM-like pickle."""
    module = types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    _reconstruct_persistent_obj.__module__ = module.__name__
    inner = {"_parameters": dict(STATE), "_buffers": {}, "_modules": {}, "sigma_min": 0.003}
    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), module.__name__: module}
    try:
        return pickle.dumps({"ema": Module(inner), "dataset_kwargs": {"use_labels": False}}, protocol=4)
    finally:
        del sys.modules["torch_utils"], sys.modules[module.__name__]


SNAPSHOT = snapshot_bytes()


def same(tensors):
    return set(tensors) == set(STATE) and all(torch.equal(tensors[k], v) for k, v in STATE.items())


@st.composite
def damaged(draw, data):
    """A few flipped bits, overwritten bytes, inserted or removed stretches, or a cut."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "byte", "insert", "remove", "cut", "long"]))
        if not data:
            break
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[at] = draw(st.sampled_from([0, 0xFF, 0x80, 0x7F, ord("."), ord("R"), ord("c"), ord("("), 0x93]))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=9))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "cut":
            del data[at:]
        else:
            data[at : at + 8] = struct.pack("<Q", draw(st.sampled_from([2**63, 2**40, 2**32 - 1, 2**31])))
    return bytes(data)


def test_the_undamaged_files_are_read(tmp_path):
    path = tmp_path / "x.pt"
    for data in (ZIP, LEGACY):
        path.write_bytes(data)
        facts = file_facts(path)
        assert same(find_weights(facts, *read_torch(facts)).tensors)
    path.write_bytes(SNAPSHOT)
    assert same(read_edm_pickle(file_facts(path))["ema"].tensors)
    path.write_bytes(SAFE)
    assert same(read_safetensors(path))


@settings(max_examples=600, **QUICK)
@given(data=damaged(ZIP))
def test_damaged_torch_zip(data, tmp_path):
    """The zip's checksums cover everything: what still loads is exactly what was saved."""
    path = tmp_path / "x.pt"
    path.write_bytes(data or b"P")
    try:
        facts = file_facts(path)
        tensors = find_weights(facts, *read_torch(facts)).tensors
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert same(tensors)


@settings(max_examples=400, **QUICK)
@given(data=damaged(LEGACY))
def test_damaged_old_torch_file(data, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(data or b"P")
    try:
        facts = file_facts(path)
        find_weights(facts, *read_torch(facts))
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017


@settings(max_examples=400, **QUICK)
@given(data=damaged(SNAPSHOT))
def test_damaged_snapshot(data, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(data or b"P")
    try:
        read_edm_pickle(file_facts(path))
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017


@settings(max_examples=300, **QUICK)
@given(data=damaged(SAFE))
def test_damaged_safetensors(data, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data or b"P")
    try:
        read_safetensors(path)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017


CALLS = [
    b"cos\nsystem\n",
    b"cposix\nsystem\n",
    b"cbuiltins\nexec\n",
    b"cbuiltins\ngetattr\n",
    b"ctorch.storage\n_load_from_bytes\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
    b"ccollections\nOrderedDict\n",
    b"cdnnlib.util\nEasyDict\n",
    b"ctorch.nn.modules.container\nModuleDict\n",
]
PIECES = [
    *CALLS, b"(", b")", b"]", b"}", b"0", b"1", b"2", b"a", b"e", b"s", b"u", b"t", b"\x85", b"\x86", b"\x87", b"R",
    b"\x81", b"\x92", b"b", b"Q", b"o", b"\x93", b"\x8f", b"\x90", b"\x91", b"\x94", b"N", b"\x88", b"K\x05",
    b"X\x04\x00\x00\x00echo", b"\x8c\x03ema", b"\x8c\x05state", b"h\x00", b"q\x00", b"C\x02ab", b"J\xff\xff\xff\x7f",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"G\x7f\xf0\x00\x00\x00\x00\x00\x00", b"ios\nsystem\n", b"\x82\x01",
    b"P1\n", b"\x97", b"\x98",
]  # fmt: skip


@settings(max_examples=700, **QUICK)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=40))
def test_random_pickle_programs(pieces, tmp_path_factory):
    """Whatever the program says, nothing is imported, called or created outside the reader."""
    path = tmp_path_factory.getbasetemp() / "program.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(pieces) + b".")
    called = []
    guard, os.system = os.system, called.append
    try:
        with pytest.raises(CmexportError, match=r"program\.pkl"):
            load_checkpoint(path)
    finally:
        os.system = guard
    assert not called


@pytest.mark.parametrize("name", ["x.pt", "x.ckpt", "x.pkl", "old.pt", "x.safetensors"])
def test_truncated_at_every_percent(name, tmp_path):
    data = {"x.pkl": SNAPSHOT, "old.pt": LEGACY, "x.safetensors": SAFE}.get(name, ZIP)
    path = tmp_path / name
    for percent in range(100):
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            load_checkpoint(path)


def bombs():
    """Small files that ask for much: name to bytes."""
    large = struct.pack("<Q", 2**62)
    yield "text.pkl", b"\x80\x04\x8d" + large + b"x" * 100
    yield "bytes.pkl", b"\x80\x04\x8e" + large + b"x" * 100
    yield "number.pkl", b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"\xff" * 100
    yield "digits.pkl", b"\x80\x02L" + b"9" * 3_000_000 + b"L\n."
    yield "marks.pkl", b"\x80\x04" + b"(" * 3_000_000
    yield "nested.pkl", b"\x80\x04" + b"]" * 1_000_000 + b"a" * 999_999 + b"."
    yield "doubling.pkl", b"\x80\x04K\x01" + b"2\x86" * 100_000 + b"."
    yield "key.pkl", b"\x80\x04}" + b"K\x01" + b"2\x86" * 60 + b"K\x00s."
    yield "set.pkl", b"\x80\x04\x8f(" + b"K\x01" + b"2\x86" * 60 + b"\x90."
    yield "memo.pkl", b"\x80\x04]\x94" + b"h\x00a" * 10 + b"h\x00" * 1_000_000 + b"."
    yield "line.pkl", b"\x80\x02c" + b"a" * 20_000_000
    # Storages of a terabyte, in each format.
    legacy = LEGACY.replace(b"K\x0c", b"\x8a\x06" + struct.pack("<q", 2**40)[:6], 1)
    assert legacy != LEGACY
    yield "storage.pt", legacy
    nested = b"\x80\x04}\x8c\x03ema" + b"ctorch.storage\n_load_from_bytes\n" + b"B" + struct.pack("<i", len(legacy))
    yield "storage.pkl", nested + legacy + b"\x85Rs."
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    yield "storage.safetensors", struct.pack("<Q", len(header)) + header
    deep = b'{"a":' + b"[" * 5_000_000
    yield "deep.safetensors", struct.pack("<Q", len(deep)) + deep
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"]" * 300_000_000)
    yield "deflated.pt", buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(30_000):
            archive.writestr(f"x/data/{index}", b"")
    yield "records.pt", buffer.getvalue()


def test_bombs(tmp_path):
    paths = []
    for name, data in bombs():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    script = """
        import json, resource, sys, time, torch
        from cmexport.checkpoints import load_checkpoint
        from cmexport.errors import CheckpointError
        torch.set_num_threads(1)
        for path in sys.argv[1:]:
            start = time.process_time()
            try:
                load_checkpoint(path)
                print(json.dumps([path, "loaded", 0, 0]))
            except CheckpointError as error:
                assert path in str(error) and len(str(error)) < 1000, error
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(json.dumps([path, "refused", time.process_time() - start, peak]), flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, paths)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(paths)
    for path, outcome, seconds, megabytes in results:
        assert outcome == "refused", path
        assert seconds < 10, (path, seconds)
        assert megabytes < 2000, (path, megabytes)
