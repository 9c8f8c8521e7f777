"""What kits say of models that nobody has exported: every kind of input, and names that code can't hold as they are."""

from __future__ import annotations

from cmexport.artifact.manifest import FileRecord
from cmexport.kits.facts import Kit, KitGraph, KitRun, KitTensor, KitTokenizer

LABELS = ("class", "3", 'say "no"', "tench, Tinca tinca", "Läufer", "\\n", "a&b<c>'d'", "unix", "class", "日本", "??/")
TOKENIZER = KitTokenizer(folder="tokenizer", begin=0, end=1, pad=1, unknown=1, length=77)
NOISE = KitTensor(name="noise", dtype="float32", shape=(1, 3, 16, 24), layout="NCHW")
RENOISE = KitTensor(name="renoise", dtype="float32", shape=(3, 1, 3, 16, 24), layout="NNCHW")
LABEL = KitTensor(name="label", dtype="int64", shape=(1,), layout="N", limits=(0, len(LABELS) - 1))
PROMPT = KitTensor(name="prompt", dtype="int64", shape=(1,), layout="N", limits=(0, len(LABELS) - 1))
TOKENS = KitTensor(name="tokens", dtype="int64", shape=(1, 77), layout="NT")
GUIDANCE = KitTensor(name="guidance", dtype="float32", shape=(1,), layout="N", limits=(1.0, 8.5))
IMAGE = KitTensor(name="image", dtype="float32", shape=(1, 3, 16, 24), layout="NCHW", limits=(-1, 1))
MASK = KitTensor(name="mask", dtype="float32", shape=(1, 1, 16, 24), layout="NCHW", limits=(0, 1))
OUTPUT = KitTensor(name="image", dtype="float32", shape=(1, 3, 16, 24), layout="NCHW")
EDITED = KitTensor(name="edited", dtype="float32", shape=(1, 3, 16, 24), layout="NCHW")
GREY = KitTensor(name="image", dtype="uint8", shape=(1, 16, 24, 1), layout="NHWC")
EMBEDDINGS = KitTensor(name="embeddings", dtype="float32", shape=(1, 77, 64), layout="NTD")


def graph(name: str, inputs: tuple[KitTensor, ...], output: KitTensor) -> KitGraph:
    return KitGraph(name=name, file=f"{name}.onnx", function=None, inputs=inputs, output=output)


def of(name: str, *inputs: KitTensor, output: KitTensor = OUTPUT, graphs: tuple[KitGraph, ...] = ()) -> KitRun:
    alone = graphs or (graph(name, inputs, output),)
    return KitRun(name=name, task=name, steps=1, patch=None, graphs=alone, inputs=inputs, output=output, least_db=57.25)


STAGED = (graph("encode", (TOKENS,), EMBEDDINGS), graph("paint", (EMBEDDINGS, NOISE, GUIDANCE), OUTPUT))
RUNS = {
    "noise alone": (of("generate", NOISE),),
    "labels, several ways of editing": (
        of("generate", NOISE, LABEL),
        of("inpaint", NOISE, RENOISE, LABEL, IMAGE, MASK, output=EDITED),
        of("colorize", NOISE, RENOISE, LABEL, IMAGE, output=EDITED),
    ),
    "editing alone": (of("inpaint", NOISE, IMAGE, MASK, output=EDITED),),
    "no noise": (of("denoise", LABEL, IMAGE, output=EDITED),),
    "prompts, bytes, grey": (of("generate", NOISE, PROMPT, output=GREY),),
    "words, guidance, stages": (of("generate", TOKENS, NOISE, GUIDANCE, graphs=STAGED),),
}


def made_up(runs: tuple[KitRun, ...]) -> Kit:
    taken = {i.name for run in runs for i in run.inputs}
    return Kit(
        name="2 models",
        cmexport="1.0",
        artifact="2 models-onnx-fp32",
        target="onnx",
        precision="fp32",
        license=None,
        labels=LABELS if "label" in taken else None,
        prompts=LABELS if "prompt" in taken else None,
        tokenizer=TOKENIZER if "tokens" in taken else None,
        guidance=4.75 if "guidance" in taken else None,
        files=(FileRecord(path="a b/model.onnx", sha256="0" * 64, bytes=2**33, role="model"),),
        runs=runs,
    )
