"""CLIP's tokenizer, which turns a prompt into numbers: read from a checkpoint, written into an artefact."""

from cmexport.tokenizer.clip import Special, Tokenizer
from cmexport.tokenizer.packaged import clip_tokenizer
from cmexport.tokenizer.prompts import calibration_prompts, read_prompts
from cmexport.tokenizer.reading import read_tokenizer
from cmexport.tokenizer.second import Translation, translation
from cmexport.tokenizer.writing import write_tokenizer

__all__ = [
    "Special",
    "Tokenizer",
    "Translation",
    "calibration_prompts",
    "clip_tokenizer",
    "read_prompts",
    "read_tokenizer",
    "translation",
    "write_tokenizer",
]
