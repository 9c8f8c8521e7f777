"""The ladder of an artefact: which rungs there are, and what they tell."""

from __future__ import annotations

import onnx


def test_a_whole_network_keeps_what_bfloat16_keeps(shared_export, psnr):
    written = shared_export("bf16")
    inputs = written.inputs()
    (rung,) = written.rungs
    assert rung.name == "typed ONNX, bfloat16 emulated"
    with rung.open() as run:
        found = run(inputs)["image"]
    # 18 dB below float16's 11 bits, whatever the network; exactly float32 would say that nothing was rounded.
    assert 35 < psnr(written.reference(inputs), found) < 75


def test_the_file_is_of_the_oldest_version_that_has_what_it_holds(shared_export):
    # Opset 21 has group normalization as one operator; nothing in the file needs the format's version 10.
    for precision in ("fp32", "bf16"):
        assert onnx.load(shared_export(precision).path).ir_version == 9
