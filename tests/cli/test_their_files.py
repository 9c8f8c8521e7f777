"""A stranger's ONNX file all the way: numbers in users' units, a table of them, heights, one channel."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image
from support.onnx_denoisers import export_denoiser

from .conftest import run_main

FACTS = (("difficulty", "continuous-1-to-100"),)
HIGHEST = 22.16864013671875


def heights_of(y):
    """The formula of adaptive-terrain-diffusion's generator, in float64."""
    return 0.1 * np.sinh((np.asarray(y, np.float64) + 1) / 2 * np.arcsinh(HIGHEST / 0.1))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return export_denoiser(tmp_path_factory.mktemp("theirs") / "hills.onnx", facts=FACTS)


def picture(theirs, noise, difficulty):
    session = ort.InferenceSession(str(theirs), providers=["CPUExecutionProvider"])
    unit = np.array([(difficulty - 1) / 99], np.float32)
    return session.run(None, {"noisy": 80 * noise, "sigma": np.array([80], np.float32), "difficulty": unit})[0]


@pytest.fixture(scope="module")
def heights(theirs, tmp_path_factory):
    out = tmp_path_factory.mktemp("heights")
    options = ("--levels-of", "difficulty=100", "--output-transform", "heights", "--seeds", "8", "-o", out)
    done = run_main("onnx", theirs, *options)
    assert done.code == 0, done.stderr
    return out / "hills-onnx-fp32"


@pytest.fixture(scope="module")
def baked(theirs, tmp_path_factory):
    out = tmp_path_factory.mktemp("baked")
    done = run_main("onnx", theirs, "--set", "difficulty=40", "--fp16", "--seeds", "8", "-o", out)
    assert done.code == 0, done.stderr
    return out / "hills-onnx-fp16"


class TestHeights:
    def test_they_are_the_formula_of_their_file(self, theirs, heights) -> None:
        session = ort.InferenceSession(str(heights / "model.onnx"), providers=["CPUExecutionProvider"])
        assert {i.name: (i.type, i.shape) for i in session.get_inputs()} == {
            "noise": ("tensor(float)", [1, 1, 16, 16]),
            "difficulty": ("tensor(float)", [1]),
        }
        for seed, difficulty in enumerate((1, 2, 40, 99, 100)):
            noise = np.random.default_rng(seed).standard_normal((1, 1, 16, 16)).astype(np.float32)
            fed = {"noise": noise, "difficulty": np.array([difficulty], np.float32)}
            expected = heights_of(picture(theirs, noise, difficulty))
            assert 0 <= expected.min() < expected.max() <= HIGHEST + 1e-9
            np.testing.assert_allclose(session.run(None, fed)[0], expected, atol=2e-3)

    def test_the_nearest_value_counts(self, heights) -> None:
        session = ort.InferenceSession(str(heights / "model.onnx"), providers=["CPUExecutionProvider"])
        noise = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
        drawn = [
            session.run(None, {"noise": noise, "difficulty": np.array([d], np.float32)})[0] for d in (40, 40.4, 41)
        ]
        assert np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], drawn[2])

    def test_the_table_has_a_row_for_each_value(self, heights) -> None:
        model = onnx.load(heights / "model.onnx")
        (lookup,) = [n for n in model.graph.node if n.op_type == "Gather"]
        table = next(i for i in model.graph.initializer if i.name == lookup.input[0])
        assert table.dims[0] == 100
        assert not [n for n in model.graph.node if n.op_type in ("Gemm", "MatMul") and "emb" in "".join(n.input)]

    def test_the_manifest_has_units(self, heights) -> None:
        manifest = json.loads((heights / "manifest.json").read_text())
        transform = manifest["sampling"]["transform"]
        assert (transform["name"], transform["unit"], transform["quantity"]) == ("heights", "m", "heights")
        (graph,) = manifest["graphs"]
        assert graph["signature"]["output"]["range"] == [0.0, HIGHEST]
        assert graph["signature"]["output"]["meaning"].startswith("heights in m, (N, C, H, W): 0.1 sinh((y + 1) / 2 ")
        law = graph["signature"]["inputs"][1]
        assert (law["law"], law["range"]) == ("range(1,100,100)", [1.0, 100.0])
        assert manifest["parity"]["rungs"][-1]["passed"]

    def test_the_preview_is_grey_and_no_clipped_white(self, heights) -> None:
        pixels = np.asarray(Image.open(heights / "preview.png"))[30:90, 10:90]
        assert (pixels[..., 0] == pixels[..., 1]).all()
        assert len(np.unique(pixels)) > 20

    def test_sample_gives_heights_and_shows_grey(self, theirs, heights, tmp_path) -> None:
        inputs = tmp_path / "x.npz"
        noise = np.random.default_rng(1).standard_normal((2, 1, 16, 16)).astype(np.float32)
        np.savez(inputs, noise=noise, difficulty=np.array([40, 90], np.float32))
        saved, grid = tmp_path / "y.npz", tmp_path / "grid.png"
        done = run_main("sample", heights, "--inputs", inputs, "--save", saved, "-o", grid)
        assert done.code == 0, done.stderr
        found = np.load(saved)["image"]
        expected = heights_of(picture(theirs, noise[:1], 40))
        np.testing.assert_allclose(found[:1], expected, atol=2e-3)
        # Enlarged six times, 4 pixels of paper around.
        shown = np.asarray(Image.open(grid))[4 : 4 + 96 : 6, 4 : 4 + 96 : 6, 0]
        assert np.abs(shown - 255 * expected[0, 0] / HIGHEST).max() <= 1

    def test_it_is_verified_without_its_checkpoint(self, heights, tmp_path) -> None:
        folder = shutil.copytree(heights, tmp_path / heights.name)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["checkpoint"]["path"] = str(tmp_path / "gone.onnx")
        (folder / "manifest.json").write_text(json.dumps(manifest))
        done = run_main("verify", folder)
        assert done.code == 0, done.stderr
        assert "golden" in done.stderr + done.stdout
        golden = np.load(folder / "golden" / "generate.expected.npz")["image"]
        assert golden.max() > 2  # heights, not pictures
        assert run_main("verify", heights, "--seeds", "8").code == 0

    def test_another_meaning_is_another_artefact(self, theirs, heights) -> None:
        options = ("--levels-of", "difficulty=50", "--no-verify", "-o", heights.parent)
        done = run_main("onnx", theirs, *options)
        assert done.code == 2
        assert "output_transform heights, not" in done.stderr
        assert "levels_of" in done.stderr

    def test_kits_show_pictures(self, heights, tmp_path) -> None:
        done = run_main("kit", heights, "--platform", "python", "-o", tmp_path)
        assert done.code == 2
        assert "which an app has no way to make" in done.stderr
        assert "--set difficulty=" in done.stderr

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (("--output-transform", "depths"), "--output-transform depths: known are heights"),
            (("--output-transform", "heights", "--output", "uint8"), "contradict each other: bytes are no heights"),
            (("--output-transform", "heights", "--task", "stroke"), "for --task generate"),
            (("--levels-of", "difficulty"), "an input and a number are expected"),
            (("--levels-of", "slope=9"), "takes no such number; it has difficulty"),
            (("--set", "difficulty=0"), "out of range, this model takes 1 to 100"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, theirs, tmp_path, more, said) -> None:
        done = run_main("onnx", theirs, *more, "-o", tmp_path)
        assert (done.code, said in done.stderr) == (2, True), done.stderr
        assert not list(tmp_path.iterdir())

    def test_three_channels_have_no_height(self, tiny_checkpoint, tmp_path) -> None:
        done = run_main(
            "onnx", tiny_checkpoint, "--set", "image_size=8", "--output-transform", "heights", "-o", tmp_path
        )
        assert (done.code, "for pictures of 1 channel, not 3" in done.stderr) == (2, True), done.stderr


class TestDifficulty:
    def test_sample_checks_its_range(self, theirs, heights, tmp_path) -> None:
        for subject in (theirs, heights):
            done = run_main("sample", subject, "--difficulty", "101", "--count", "1", "-o", tmp_path / "x.png")
            assert done.code == 2
            assert "--difficulty 101.0: out of range, this model takes 1 to 100" in done.stderr

    def test_sample_gives_every_picture_the_same(self, heights, tmp_path) -> None:
        drawn = []
        for number, difficulty in enumerate((5, 95)):
            saved = tmp_path / f"{number}.npz"
            options = ("--difficulty", difficulty, "--count", "2", "--save", saved)
            done = run_main("sample", heights, *options)
            assert done.code == 0, done.stderr
            drawn.append(np.load(saved)["image"])
        assert not np.allclose(*drawn)

    def test_a_baked_value_is_no_input(self, theirs, baked, tmp_path) -> None:
        session = ort.InferenceSession(str(baked / "model.onnx"), providers=["CPUExecutionProvider"])
        assert [i.name for i in session.get_inputs()] == ["noise"]
        noise = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
        error = session.run(None, {"noise": noise})[0] - picture(theirs, noise, 40)
        assert 20 * np.log10(2 / np.sqrt(np.mean(error**2))) > 60
        done = run_main("sample", baked, "--difficulty", "50", "-o", tmp_path / "x.png")
        assert (done.code, "takes none" in done.stderr) == (2, True)

    def test_a_kit_of_one_channel_tests_itself(self, baked, tmp_path) -> None:
        done = run_main("kit", baked, "--platform", "python", "-o", tmp_path)
        assert done.code == 0, done.stderr
        (kit,) = tmp_path.iterdir()
        golden = next(kit.rglob("golden.json"))
        pictures = json.loads(golden.read_text())["pictures"]
        assert {(p["height"], p["width"], p["channels"]) for p in pictures} == {(16, 16, 1)}
        assert all((golden.parent / p["expected"]).stat().st_size == 256 for p in pictures)

    def test_inspect_names_the_units(self, theirs) -> None:
        done = run_main("inspect", theirs, "--json")
        assert done.code == 0, done.stderr
        (found,) = [s for s in done.json["settings"] if s["name"] == "label_range"]
        assert (found["value"], found["ambiguous"]) == ([1, 100], False)
