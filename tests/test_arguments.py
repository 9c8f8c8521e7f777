"""What Python users are told names arguments of the function they called; the command line goes on naming options."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import noisy_checkpoint, tiny_config

import cmexport
from cmexport.api import TARGET_OPTIONS
from cmexport.arguments import in_arguments
from cmexport.checkpoints.settings import KNOWN_SETTINGS
from cmexport.cli.main import main
from cmexport.networks.adm_unet import AdmUnet

pytestmark = pytest.mark.filterwarnings("ignore::cmexport.GuessWarning")
PACKAGE = Path(cmexport.__file__).parent
STATED = {"image_size": 8, "num_head_channels": 32}
OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
NAMED = re.compile(r"\b(\w+)=")


def names(function, *further):
    return {*inspect.signature(function).parameters, *further}


ARGUMENTS = {
    "load": names(cmexport.load, *KNOWN_SETTINGS),
    "export": names(cmexport.export, *TARGET_OPTIONS),
    "open": names(cmexport.open),
    "sample": names(cmexport.Artifact.sample, "label", "image", "mask"),
    "verify": names(cmexport.Artifact.verify, *KNOWN_SETTINGS),
}


@pytest.mark.parametrize(
    ("function", "option", "argument"),
    [
        ("export", "--keep-fp32 auto", 'keep_fp32="auto"'),
        ("export", "--steps 3: too many", "steps=3: too many"),
        (
            "export",
            "x; --overwrite replaces it, -o writes elsewhere",
            "x; overwrite=True replaces it, out=... writes elsewhere",
        ),
        ("export", "e.g. --sigmas 80,1.38", "e.g. sigmas=[80, 1.38]"),
        ("export", "--int8 --ios 15: no", 'precision="int8", ios=15: no'),
        ("export", "leave --trt out to use it", "leave trt out to use it"),
        ("export", "it is for --trt 10 and 11", 'it is for trt="10" and 11'),
        ("export", "give a --plan instead", "give a plan instead"),
        (
            "export",
            "--simplify needs it: pip install --user 'x[y]'",
            "simplify=True needs it: pip install --user 'x[y]'",
        ),
        ("export", "not here; `cmexport onnx` writes it", 'not here; target="onnx" writes it'),
        ("load", "--set precond=edm contradicts it", 'precond="edm" contradicts it'),
        ("load", "x;\nsay which: --weights 0.9999", 'x;\nsay which: weights="0.9999"'),
        ("load", "Save it, or pass --trust-checkpoint if you dare.", "Save it, or pass trust=True if you dare."),
        ("verify", "Save it, or pass --trust-checkpoint if you dare.", "Save it."),
        (
            "verify",
            "gone; name it: --against CKPT\nor compare: --inputs x.npz --expected y.npz",
            "gone; name it: against=...",
        ),
        ("sample", "made by another; choose with --trt, or export again", "made by another; export again"),
        (
            "sample",
            "not this GPU; export again with its --sm, or here",
            "not this GPU; export again with its sm, or here",
        ),
    ],
)
def test_words_of_the_command_line_in_python(function, option, argument):
    assert (
        in_arguments(option, ARGUMENTS[function] | {"settings"} & names(getattr(cmexport, function, cmexport.load)))
        == argument
    )


def messages():
    """Every text with an option in it that the packages below the interface may raise, `{...}` filled in."""
    above = {"bench", "cli", "doctor", "planning", "recipes", "report", "tuning"}
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.relative_to(PACKAGE).parts[0] in {*above, "arguments.py"}:
            continue
        for raised in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)):
            if isinstance(raised.func, ast.Name) and raised.func.id.endswith("Error"):
                for text in map(filled, raised.args):
                    if OPTION.search(text):
                        yield f"{file.relative_to(PACKAGE)}:{raised.lineno}", text


def filled(node):
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "7" for v in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_message_of_the_library_keeps_an_option():
    found = dict(messages())
    assert len(found) > 50
    for place, text in found.items():
        for function, known in ARGUMENTS.items():
            said = in_arguments(text, known)
            assert said, (place, function)
            assert not OPTION.search(said.partition("pip install")[0]), (place, function, said)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return noisy_checkpoint(tmp_path_factory.mktemp("arguments") / "cm-v1.0.pt", tiny_config())


@pytest.fixture(scope="module")
def model(checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cmexport.load(checkpoint, STATED)


@pytest.fixture(scope="module")
def artifact(model, tmp_path_factory):
    return cmexport.export(model, "onnx", steps=2, seeds=8, out=tmp_path_factory.mktemp("out"))


def refused(function, call, *args, **kwargs):
    """What the call says; all it names are arguments of the function, or of `export` where it sends there."""
    with pytest.raises(cmexport.CmexportError) as caught:
        call(*args, **kwargs)
    said = str(caught.value)
    assert not OPTION.search(said), said
    assert set(NAMED.findall(said)) <= ARGUMENTS[function] | set(kwargs), said
    return said


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"sigma_dat": 0.5}, "^sigma_dat=0.5: there is no field"),
        ({"rho": "much"}, '^rho="much": rho '),
        ({"num_classes": 7}, "^num_classes=7 contradicts the weights"),
        ({"image_size": 9}, r"must be multiples of 2: image_size=\d+, say$"),
        ({"weights": "emma"}, '^weights="emma": '),
        ({"augment_dim": 3}, "^augment_dim"),
    ],
)
def test_load(checkpoint, stated, said):
    assert re.search(said, refused("load", cmexport.load, checkpoint, **{**STATED, **stated}))


def test_load_of_several_weights_and_of_code(checkpoint, tmp_path):
    state = torch.load(checkpoint)
    torch.save({"old": state, "new": {k: v + 1 for k, v in state.items()}}, tmp_path / "two.pt")
    assert re.search('say which: weights="(old|new)', refused("load", cmexport.load, tmp_path / "two.pt", STATED))

    class Opens:
        def __reduce__(self):
            return os.system, ("true",)

    torch.save({"weights": Opens()}, tmp_path / "hostile.pt")
    assert "or pass trust=True if" in refused("load", cmexport.load, tmp_path / "hostile.pt")
    assert "image_size=N" in refused("load", cmexport.load, AdmUnet(tiny_config()))


def test_warnings_of_load(checkpoint):
    with pytest.warns(cmexport.GuessWarning) as heard:
        cmexport.load(checkpoint, STATED, use_fp16=True)
    assert [str(w.message) for w in heard if "use_fp16" in str(w.message)] == [
        "use_fp16: not used, weights are read as float32"
    ]


@pytest.mark.parametrize(
    ("target", "asked", "said"),
    [
        ("onnx", {"steps": 5000}, "^steps=5000: must lie between 1 and"),
        ("onnx", {"batch": 0}, "^batch=0: must be at least 1"),
        ("onnx", {"label": 7}, "^label=7: out of range"),
        ("onnx", {"task": "paint"}, '^task="paint": known are generate'),
        ("onnx", {"task": ["inpaint", "inpaint"]}, "inpaint comes twice"),
        ("onnx", {"task": "superres"}, r'^task="superres": .* Give patch=N'),
        ("onnx", {"task": "superres", "patch": 3}, "^patch=3: must divide"),
        ("onnx", {"patch": 2}, '^patch=2: only task="superres" has patches'),
        ("onnx", {"task": "denoise"}, r"e.g. sigmas=\[0.5\]"),
        ("onnx", {"sampler": "hewn"}, '^sampler="hewn": known are'),
        ("onnx", {"sampler": "heun", "task": "inpaint"}, '^sampler="heun", task="inpaint": .* sampler="consistency"'),
        ("onnx", {"sampler": "heun", "steps": 1}, '^steps=1: with sampler="heun" it must'),
        ("onnx", {"ep": "gpu"}, '^ep="gpu": unknown execution provider'),
        ("onnx", {"rewrites": "most"}, "^rewrites: unknown rewrite"),
        ("onnx", {"precision": "a16w8"}, '^precision="a16w8": .* add ep="qnn"'),
        ("tensorrt", {"keep_fp32": "auto"}, '^keep_fp32: .*; add precision="fp16", say'),
        ("tensorrt", {"keep_fp32": "auto", "precision": "bf16"}, '^keep_fp32="auto": bfloat16'),
        ("tensorrt", {"trt": "9"}, '^trt="9": known are'),
        ("tensorrt", {"trt": "rtx", "sm": 99}, r"^sm=\[99\]: .* builds for"),
        ("coreml", {"ios": 12}, "^ios=12: known are"),
        ("coreml", {"ios": 16, "precision": "int8"}, r'^precision="int8", ios=16: .*; take ios=17, or precision="w8"'),
        ("coreml", {"sampler": "heun", "steps": 2}, '^sampler="heun": not for coreml; target="onnx" writes it'),
    ],
)
def test_export(model, tmp_path, target, asked, said):
    assert re.search(said, refused("export", cmexport.export, model, target, out=tmp_path, **asked), re.DOTALL)
    assert list(tmp_path.iterdir()) == []


def test_export_where_something_stands(model, artifact, tmp_path):
    (tmp_path / "file").write_text("")
    assert "with out=..." in refused("export", cmexport.export, model, out=tmp_path / "file")
    shutil.copytree(artifact.folder, tmp_path / artifact.folder.name)
    said = refused("export", cmexport.export, model, steps=3, out=tmp_path)
    assert "overwrite=True replaces it, out=... writes elsewhere" in said


def test_open_sample_and_verify(model, artifact, checkpoint, tmp_path):
    refused("open", cmexport.open, tmp_path)
    assert refused("sample", artifact.sample, label=3).startswith("label=3: out of range")
    assert refused("sample", artifact.sample, mask=np.ones((1, 8, 8))).startswith("mask: task generate")
    assert refused("sample", artifact.sample, task="stroke").startswith('task="stroke": this artefact holds generate')
    assert refused("verify", artifact.verify, task="stroke").startswith('task="stroke": ')
    moved = shutil.move(checkpoint, tmp_path / "moved.pt")
    try:
        shutil.copytree(artifact.folder, tmp_path / "bare")
        manifest = tmp_path / "bare" / "manifest.json"
        facts = {**json.loads(manifest.read_text()), "golden": None}
        facts["files"] = [file for file in facts["files"] if file["role"] != "golden"]
        manifest.write_text(json.dumps(facts))
        said = refused("verify", cmexport.open(tmp_path / "bare").verify)
        assert said.endswith("name it: against=...")
        assert refused("verify", artifact.verify, moved, sigma_dat=1).startswith("sigma_dat=1: ")
    finally:
        shutil.move(moved, checkpoint)


def test_a_picture_to_edit_is_an_argument(model, tmp_path):
    editor = cmexport.export(model, task="stroke", steps=1, seeds=8, out=tmp_path)
    assert refused("sample", editor.sample).endswith("give image=...")


def test_the_command_line_names_options(checkpoint, tmp_path, capsys):
    assert main(["onnx", str(checkpoint), "--set", "image_size=8", "--steps", "5000", "-o", str(tmp_path)]) == 2
    assert "--steps 5000: must lie between" in capsys.readouterr().err
