from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.errors import CheckpointError
from cmexport.targets.tensorrt.header import EngineHeader, read_header


def rtx_header(version=(1, 7, 1, 116), bits=0b100, size=100, magic=b"vtrt"):
    head = bytearray(size)
    head[:4] = magic
    head[16:24] = size.to_bytes(8, "little")
    head[24:28] = bytes(version)
    head[32:40] = bits.to_bytes(8, "little")
    return bytes(head)


@pytest.mark.parametrize(
    ("bits", "sms"), [(0b1, (75,)), (0b100, (86,)), (0b11101, (75, 86, 89, 120)), (0, None), (1 << 40, None)]
)
def test_version_and_gpus_are_read(tmp_path, bits, sms):
    path = tmp_path / "model.engine"
    path.write_bytes(rtx_header(bits=bits))
    assert read_header(path) == EngineHeader(rtx=True, version="1.7.1.116", sms=sms)


def test_a_plan_of_tensorrt_itself_tells_nothing_more(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"ptrt" + bytes(200))
    assert read_header(path) == EngineHeader(rtx=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a TensorRT engine"),
        (b"junk" * 40, "not a TensorRT engine"),
        (rtx_header()[:40], "within its header"),
        (rtx_header()[:-1], "99 bytes, and its header says 100"),
        (rtx_header() + b"x", "101 bytes, and its header says 100"),
    ],
)
def test_damaged_engines_are_refused(tmp_path, content, said):
    path = tmp_path / "model.engine"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_header(path)


def test_a_missing_engine_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="can't be read"):
        read_header(tmp_path / "none.engine")


@given(st.binary(max_size=120), st.sampled_from([b"", b"vtrt", b"ptrt"]))
def test_any_bytes_give_a_header_or_one_error(tmp_path_factory, content, magic):
    path = tmp_path_factory.getbasetemp() / "any.engine"
    path.write_bytes(magic + content)
    try:
        found = read_header(path)
    except CheckpointError:
        return
    assert (magic + content)[:4] in (b"vtrt", b"ptrt", b"ftrt")
    assert found.rtx == (content[:4] == b"vtrt" if not magic else magic == b"vtrt")


def test_the_library_writes_the_gpus_it_is_asked_for(rtx, export, tmp_path):
    from cmexport.targets.tensorrt.engine import EngineRequest, build_engine

    written = export("fp16")
    for sms in ((86,), (75, 120), (80, 89, 121)):
        built = build_engine(rtx, written.path, EngineRequest("fp16", sms), tmp_path / "e.engine", lambda _: None)
        assert read_header(built.path) == EngineHeader(rtx=True, version=rtx.version, sms=sms)
