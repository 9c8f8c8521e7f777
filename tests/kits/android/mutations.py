"""What mistakes in the library would look like, and the test that must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """Where, what stands there, what stands there instead, and which test fails then."""

    file: str
    right: str
    wrong: str
    caught_by: str


MUTATIONS = {
    "red-and-blue": Mutation(
        "Pictures.kt",
        "bytes[pixel * channels + channel] = Math",
        "bytes[pixel * channels + channels - 1 - channel] = Math",
        "PicturesTest#order",
    ),
    "height-and-width": Mutation(
        "Pictures.kt",
        "planes[channel * area + pixel] + 1f",
        "planes[channel * area + pixel % width * height + pixel / width] + 1f",
        "PicturesTest#order",
    ),
    "streams": Mutation(
        "Noise.kt",
        "intArrayOf(start / WORDS, 0, stream, 0)",
        "intArrayOf(start / WORDS, 0, stream xor 1, 0)",
        "NoiseTest#streams",
    ),
    "renoise-streams": Mutation(
        "Painter.kt",
        "Noise.draw(seed, step + 1, each)",
        "Noise.draw(seed, step, each)",
        "cm_cifar10.GeneratorTest#goldenPictures",
    ),
    "fused": Mutation("Noise.kt", "0.180625 - q * q", "Math.fma(-q, q, 0.180625)", "NoiseTest#singleWords"),
    "hash": Mutation(
        "ModelStore.kt",
        "if (found != file.sha256) throw",
        "if (found.isEmpty()) throw",
        "cm_cifar10.GeneratorTest#oneByteChanged",
    ),
    "mask": Mutation(
        "Pictures.kt",
        "if (mask.keeps(it)) 1f else 0f",
        "if (mask.keeps(it)) 0f else 1f",
        "PicturesTest#keptPixelsAreThoseOfThePhoto",
    ),
    "bitmap": Mutation(
        "Android.kt",
        "(byte(0) shl 16) or (byte(1) shl 8) or byte(2)",
        "(byte(2) shl 16) or (byte(1) shl 8) or byte(0)",
        "BitmapsTest#pixelsAreOpaqueRedGreenBlue",
    ),
}

# Those that programs of ours notice, not the kit's tests.
OF_THE_ENGINE = {
    "deaf": Mutation("OrtEngine.kt", "run.setTerminate(true)", "run.setTerminate(false)", "Cancel"),
    "leak": Mutation("OrtEngine.kt", "}.use { results ->", "}.let { results ->", "Growth"),
}
