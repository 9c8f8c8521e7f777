"""An Android library with a sample app: Kotlin, coroutines, ONNX Runtime's Java interface."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from cmexport.kits.facts import Kit, KitRun
from cmexport.kits.identifiers import identifier, identifiers
from cmexport.kits.platforms.info import Platform


@dataclass(frozen=True)
class Call:
    """A run as a function of the generated class.

    Attributes:
        run: the run's name.
        name: the function's: "generate"; "edit" where only one run takes a picture, else "inpaint" and so on.
        says: its documentation.
        image, mask: whether it takes them.
        asked: the parameters after these, as Kotlin writes them.
        passed: their names.
        request: the arguments of a `Request`.
        sampled, tested, told: what the sample app passes, the kit's tests, and the manual.
    """

    run: str
    name: str
    says: str
    image: bool
    mask: bool
    asked: str
    passed: str
    request: str
    sampled: str
    tested: str
    told: str

    def parameters(self, image: str, mask: str) -> str:
        """Return all parameters, pictures being of class `image` and masks of class `mask`."""
        pictures = [f"image: {image}"] * self.image + [f"keep: {mask}"] * self.mask
        return ", ".join([*pictures, self.asked])


@dataclass(frozen=True)
class _Asked:
    """What an app says of a picture: the graph's input, parameter and type; what a `Request` gets, and the sample."""

    input: str
    name: str
    type: str
    request: str
    sampled: str


_ASKED = (
    _Asked("label", "label", "Label", "label.ordinal", "Label.entries[choice.selectedItemPosition]"),
    _Asked("prompt", "prompt", "Prompt", "prompt.ordinal", "Prompt.entries[choice.selectedItemPosition]"),
    _Asked("tokens", "text", "String", "text", "words.text.toString()"),
)
_SAYS = {
    "generate": "Draw a picture.",
    "inpaint": "Paint what [keep] does not keep anew; white is kept, to the last bit.",
    "colorize": "Give a grey picture colours.",
    "superres": "Paint a picture anew whose blocks have the means of [image]'s.",
    "stroke": "Make a picture of rough strokes.",
    "denoise": "Take the noise out of a picture.",
}


def _call(kit: Kit, run: KitRun) -> Call:
    asked = [each for each in _ASKED if run.input(each.input)]
    typed = [*(f"{each.name}: {each.type}" for each in asked), "seed: Long"]
    passed = [*(each.name for each in asked), "seed"]
    request = ["seed", *(f"{each.name} = {each.request}" for each in asked)]
    if run.input("guidance"):
        typed.append(f"guidance: Float = {kit.guidance}f")
        passed.append("guidance")
        request.append("guidance = guidance")
    examples = [_example(kit, each.input) for each in asked]
    image, mask = run.input("image") is not None, run.input("mask") is not None
    height, width, channels = run.picture
    blank = [f"Picture({width}, {height}, {channels}, ByteArray({width * height * channels}))"] * image
    blank += [f"Mask({width}, {height}, ByteArray({width * height}))"] * mask
    return Call(
        run=run.name,
        name=identifier(kit.method(run), "camel"),
        says=_SAYS[run.task],
        image=image,
        mask=mask,
        asked=", ".join(typed),
        passed=", ".join(passed),
        request=", ".join([*request, *["image = image"] * image, *["keep = keep"] * mask]),
        sampled=", ".join(
            [*["photo"] * image, *["leftHalf()"] * mask, *(each.sampled for each in asked), "Random.nextLong()"]
        ),
        tested=", ".join([*blank, *examples, "seed"]),
        told=", ".join([*["photo"] * image, *["mask"] * mask, *examples, "seed = 7"]),
    )


def _example(kit: Kit, name: str) -> str:
    if name == "tokens":
        return '"crying cat"'
    names = (kit.labels if name == "label" else kit.prompts) or ()
    return f"{name.capitalize()}.{identifiers(names, 'screaming', name)[0]}"


def string(text: str) -> str:
    """Write text as a string of Kotlin's, which has no form feed, and where a dollar would begin a variable."""
    escaped = re.sub(r"\\(.)", lambda found: r"\u000c" if found[1] == "f" else found[0], json.dumps(text))
    return escaped.replace("$", r"\$")


def _context(kit: Kit) -> Mapping[str, Any]:
    calls = [_call(kit, run) for run in kit.runs]
    stored = ", ".join(string(file.path) for file in kit.files if file.role in ("model", "weights"))
    return {"calls": calls, "usual": calls[0], "stored": stored, "string": string, "xml": quoteattr, "zip": zip}


PLATFORM = Platform(
    name="android",
    title="Android",
    target="onnx",
    model_folder="kit/src/main/assets/@snake@",
    golden_folder="kit/src/main/assets/@snake@/golden",
    context=_context,
)
