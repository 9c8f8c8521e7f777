"""`sample --prompt`, against diffusers' own pipeline; artefacts draw without its libraries."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.latent_pipelines import pipeline

import cmexport as library
from cmexport.checkpoints import load_checkpoint
from cmexport.errors import UsageError
from cmexport.model import SampleRequest
from cmexport.sources import draw_pictures, source_from_model

PROMPTS = ["crying cat", "a Green car!", "<|endoftext|> 😿"]
LISTED = ["crying cat", "green car", "red heart"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lcm")


@pytest.fixture(scope="module")
def oracle(folder):
    """diffusers' pictures (n, 3, 16, 16) in [-1, 1], picture i with the noise of seed + i, in one step."""
    made = pipeline(folder)

    def draw(prompts, seed, guidance=8.5):
        noises = [torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed + i)) for i in range(9)]
        options = {"num_inference_steps": 1, "guidance_scale": guidance, "output_type": "pt"}
        pictures = [made(p, latents=z, **options).images for p, z in zip(prompts, noises, strict=False)]
        return (2 * torch.cat(pictures) - 1).numpy()

    return draw


def export(cmexport, folder, out, *options):
    outcome = cmexport("onnx", folder, "--steps", 1, "--no-verify", "-o", out, *options)
    assert outcome.code == 0, outcome.stderr
    return next(out.iterdir())


@pytest.fixture(scope="module")
def artefact(folder, oracle, cmexport, tmp_path_factory):
    return export(cmexport, folder, tmp_path_factory.mktemp("tokens"), "--batch", 2)


@pytest.fixture(scope="module")
def closed(folder, oracle, cmexport, tmp_path_factory):
    out = tmp_path_factory.mktemp("closed")
    (out.parent / "prompts.txt").write_text("\n".join(LISTED))
    return export(cmexport, folder, out, "--prompts", out.parent / "prompts.txt")


def drawn(cmexport, tmp_path, *arguments):
    outcome = cmexport("sample", *arguments, "--save", tmp_path / "y.npz")
    assert outcome.code == 0, outcome.stderr
    return np.load(tmp_path / "y.npz")["image"]


def said(prompts):
    return [part for prompt in prompts for part in ("--prompt", prompt)]


def test_a_checkpoint_draws_what_prompts_say_in_turn(folder, oracle, cmexport, tmp_path):
    found = drawn(cmexport, tmp_path, folder, "--steps", 1, *said(PROMPTS), "--seed", 3, "--count", 4)
    np.testing.assert_allclose(found, oracle([*PROMPTS, PROMPTS[0]], 3), atol=2e-4)
    other = drawn(cmexport, tmp_path, folder, "--steps", 1, *said(PROMPTS[:1]), "--count", 1, "--guidance", 2)
    np.testing.assert_allclose(other, oracle(PROMPTS[:1], 0, 2.0), atol=2e-4)
    assert np.abs(other - oracle(PROMPTS[:1], 0)).max() > 1e-3


def test_an_artefact_draws_what_prompts_say_in_turn(artefact, oracle, cmexport, tmp_path):
    """Three prompts, runs of two pictures, five pictures."""
    found = drawn(cmexport, tmp_path, artefact, *said(PROMPTS), "--seed", 3, "--count", 5)
    expected = oracle([*PROMPTS, *PROMPTS], 3)[:5]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(expected - oracle(PROMPTS[:1] * 5, 3)).max() > 1e-3, "a test that sees no prompts"
    by_hand = library.open(artefact).sample(3, count=5, prompt=PROMPTS)
    np.testing.assert_array_equal(by_hand, found)
    way = drawn(cmexport, tmp_path, artefact, *said(PROMPTS[1:2]), "--interpolate", "3,4", "--count", 2)
    np.testing.assert_allclose(way, oracle(PROMPTS[1:2] * 2, 3), atol=2e-4)


def test_an_artefact_needs_neither_transformers_nor_diffusers(artefact, oracle, tmp_path):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['transformers', 'tokenizers', 'diffusers', 'regex', 'ftfy']))\n"
        "from cmexport.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["sample", artefact, *said(PROMPTS), "--count", "3", "--save", tmp_path / "y.npz"]
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["image"], oracle(PROMPTS, 0), atol=2e-4)


def test_the_tokenizer_is_part_of_the_artefact(artefact, closed, cmexport, tmp_path):
    from transformers import CLIPTokenizer

    manifest = json.loads((artefact / "manifest.json").read_text())
    listed = {f["path"] for f in manifest["files"] if f["role"] == "tokenizer"}
    names = ("merges.txt", "tokenizer_config.json", "vectors.json", "vocab.json")
    assert listed == {f"tokenizer/{name}" for name in names}
    again = CLIPTokenizer.from_pretrained(artefact / "tokenizer")
    for vector in json.loads((artefact / "tokenizer" / "vectors.json").read_text())["vectors"]:
        assert again(vector["text"], padding="max_length", truncation=True).input_ids == vector["ids"]
    assert not (closed / "tokenizer").exists()
    merges = artefact / "tokenizer" / "merges.txt"
    before = merges.read_bytes()
    merges.write_bytes(before.replace(b"a", b"b", 1))
    try:
        outcome = cmexport("sample", artefact, "--prompt", "cat", "-o", tmp_path / "grid.png")
    finally:
        merges.write_bytes(before)
    assert outcome.code == 3
    assert "merges.txt: changed since it was exported" in outcome.stderr


def test_a_closed_list_is_asked_by_text_or_number(closed, oracle, cmexport, tmp_path):
    found = drawn(cmexport, tmp_path, closed, *said(["red heart", " GREEN  car"]), "--count", 2)
    np.testing.assert_allclose(found, oracle(["red heart", "green car"], 0), atol=2e-4)
    outcome = cmexport("sample", closed, "--save", tmp_path / "y.npz", "--count", 4)
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["image"], oracle([*LISTED, LISTED[0]], 0), atol=2e-4)
    assert "no --prompt" in outcome.stderr
    artefact = library.open(closed)
    np.testing.assert_array_equal(artefact.sample(prompt=2), artefact.sample(prompt="red heart"))
    outcome = cmexport("sample", closed, "--prompt", "dog", "-o", tmp_path / "grid.png")
    assert outcome.code == 2
    assert "'dog' is not in the closed list" in outcome.stderr
    assert "crying cat, green car, red heart" in outcome.stderr
    with pytest.raises(UsageError, match=r"^prompt: 'dog' is not"):
        artefact.sample(prompt="dog")
    assert not (tmp_path / "grid.png").exists()


REFUSED = {
    "two on a way": (["--prompt", "a", "--prompt", "b", "--interpolate", "3,4"], "all pictures show one prompt, not 2"),
    "with inputs": (["--prompt", "a", "--inputs", "x.npz"], "--prompt and --inputs contradict each other"),
    "guidance of an artefact": (["--guidance", "3"], "its guidance is fixed"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_in_a_sentence(artefact, cmexport, tmp_path, arguments, words):
    outcome = cmexport("sample", artefact, *arguments, "-o", tmp_path / "grid.png")
    assert outcome.code == 2
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3


def test_models_without_prompts_refuse_them(tiny_artifact, cmexport, tmp_path):
    outcome = cmexport("sample", tiny_artifact, "--prompt", "cat", "-o", tmp_path / "grid.png")
    assert (outcome.code, "this model takes no prompt" in outcome.stderr) == (2, True)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (SampleRequest(prompt="a cat"), "'a cat' is baked in"),
        (SampleRequest(condition="embeddings"), "takes embeddings"),
    ],
)
def test_other_forms_of_a_prompt_say_what_they_take(folder, oracle, request_, words):
    source = source_from_model(load_checkpoint(str(folder)), request_)
    with pytest.raises(UsageError, match=words):
        draw_pictures(source, 1, prompts=["dog"])


def test_guidance_that_nobody_gives_is_the_models_own(folder, oracle, cmexport, tmp_path):
    made = export(cmexport, folder, tmp_path / "out", "--guidance-input")
    outcome = cmexport("sample", made, *said(PROMPTS[:2]), "--count", 2, "--save", tmp_path / "y.npz")
    assert "no --guidance: 8.5, default of diffusers' LatentConsistencyModelPipeline" in outcome.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["image"], oracle(PROMPTS[:2], 0), atol=2e-4)
    given = cmexport("sample", made, *said(PROMPTS[:1]), "--count", 1, "--guidance", 2, "--save", tmp_path / "z.npz")
    assert "no --guidance" not in given.stderr
    np.testing.assert_allclose(np.load(tmp_path / "z.npz")["image"], oracle(PROMPTS[:1], 0, 2.0), atol=2e-4)
    by_hand = library.open(made).sample(0, count=2, prompt=PROMPTS[:2])
    np.testing.assert_array_equal(by_hand, np.load(tmp_path / "y.npz")["image"])


def test_guidance_beyond_its_range_is_refused(folder, oracle):
    source = source_from_model(load_checkpoint(str(folder)), SampleRequest(guidance_input=True))
    draw_pictures(source, 1, given={"guidance": 2.0})
    with pytest.raises(UsageError, match="--guidance 40: out of range, this model takes 1 to 15"):
        draw_pictures(source, 1, given={"guidance": 40})
