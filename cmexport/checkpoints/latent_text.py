"""CLIP's text encoders out of a pipeline's parts: configurations checked, networks of ours filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from cmexport.checkpoints.diffusers_networks import filled
from cmexport.checkpoints.latent_parts import Text
from cmexport.checkpoints.settings import Default, Settings
from cmexport.errors import CheckpointError
from cmexport.networks.clip_text import (
    ACTIVATIONS,
    ClipPair,
    ClipPooled,
    ClipTextEncoder,
    ClipTextProjection,
    SecondTokens,
    TextEncoderShape,
)
from cmexport.networks.meta import on_meta
from cmexport.tokenizer import translation
from cmexport.tokenizer.clip import LENGTH

_SKIP = "clip_skip"
_PLAIN, _PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"
# What configurations of before transformers 4.24 say, and then the largest id of a prompt is its end.
_UNSTATED_END = 2


@dataclass(frozen=True)
class Encoders:
    """What makes of a prompt's tokens what a UNet is called with.

    Attributes:
        states: tokens (N, 77) to embeddings (N, 77, D).
        width: D.
        pooled: tokens and embeddings to (N, P); None where the UNet takes nothing pooled.
        channels: P.
    """

    states: nn.Module
    width: int
    pooled: nn.Module | None = None
    channels: int | None = None


def encoders_of(texts: Sequence[Text], settings: Settings) -> Encoders:
    """Build the text encoders of a pipeline, one or SDXL's two, and fill them.

    Args:
        texts: as they were read.
        settings: may ask for layers to be left out, `clip_skip`; no file says it.

    Raises:
        CheckpointError: another kind of encoder, sizes that are none, weights that don't fit them, or two tokenizers
            that need two prompts.
    """
    skipped = 0
    if settings.said(_SKIP) is not None:
        skipped = int(settings.choose(_SKIP, Default(0, "none")))
    # SDXL takes the states before the last layer, others those after it.
    left = skipped + len(texts) - 1
    shapes = [_shape(text, kind) for text, kind in zip(texts, (_PLAIN, _PROJECTED), strict=False)]
    for text, shape in zip(texts, shapes, strict=True):
        if shape.num_hidden_layers <= left:
            raise CheckpointError(
                f"{text.encoder.where}: has {shape.num_hidden_layers} layers, of which the last {left} are left out"
            )
    if len(texts) == 1:
        (text,) = texts
        encoder = filled(on_meta(lambda: ClipTextEncoder(shapes[0])), text.encoder.weights, text.encoder.read())
        encoder.encoder.layers = encoder.encoder.layers[: shapes[0].num_hidden_layers - left]
        return Encoders(encoder, shapes[0].hidden_size)
    first, second = texts
    channels, end = _channels(second), _end(second)
    found = translation(first.tokenizer, second.tokenizer)
    if found is None:
        raise CheckpointError(
            f"{second.encoder.where}: its tokenizer and the first text encoder's are two: they differ in more than "
            "padding, so that one prompt's tokens do not serve both, which an exported graph asks of them"
        )
    one = filled(on_meta(lambda: ClipTextEncoder(shapes[0])), first.encoder.weights, first.encoder.read())
    other = filled(
        on_meta(lambda: ClipTextProjection(shapes[1], channels)), second.encoder.weights, second.encoder.read()
    )
    widths = [shape.hidden_size for shape in shapes]
    pair = ClipPair(one, other, SecondTokens(found.end, found.pad, found.replaced), left)
    return Encoders(pair.eval(), sum(widths), ClipPooled(other, widths[0], end, left).eval(), channels)


def _config(text: Text) -> Mapping[str, Any]:
    nested = text.encoder.config.get("text_config")
    return {**text.encoder.config, **(nested if isinstance(nested, dict) else {})}


def _channels(text: Text) -> int:
    channels = _config(text).get("projection_dim", 512)
    if type(channels) is not int or not 1 <= channels <= 100_000:
        raise CheckpointError(f"{text.encoder.where}: projection_dim is {str(channels)[:40]}")
    return channels


def _end(text: Text) -> int:
    """Return the token at which prompts are pooled, the first of its kind in each.

    Raises:
        CheckpointError: it is not the one that ends them.
    """
    tokenizer, said = text.tokenizer, _config(text).get("eos_token_id", _UNSTATED_END)
    pooled_at = len(tokenizer.vocabulary) - 1 if said == _UNSTATED_END else said
    if pooled_at != tokenizer.end:
        raise CheckpointError(
            f"{text.encoder.where}: pools prompts at token {str(pooled_at)[:40]} (eos_token_id), but its tokenizer "
            f"ends them with {tokenizer.end}"
        )
    return tokenizer.end


def _shape(text: Text, needed: str) -> TextEncoderShape:
    path, config = text.encoder.where, text.encoder.config
    kind = config.get("architectures") or [needed]
    if kind != [needed]:
        shown = kind[0] if isinstance(kind, list) else kind
        raise CheckpointError(f"{path}: is a {str(shown)[:80]}; only {needed} is supported")
    config = _config(text)
    known_fields = {f.name: config[f.name] for f in fields(TextEncoderShape) if f.name in config}
    for name, value in known_fields.items():
        whole = name not in ("hidden_act", "layer_norm_eps")
        if whole and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000):
            raise CheckpointError(f"{path}: {name} is {str(value)[:40]}")
    try:
        shape = TextEncoderShape(**known_fields)
    except TypeError as error:
        raise CheckpointError(f"{path}: describes no {needed} ({error})") from error
    if str(shape.hidden_act) not in ACTIVATIONS:
        raise CheckpointError(f"{path}: hidden_act '{str(shape.hidden_act)[:40]}'; known are {', '.join(ACTIVATIONS)}")
    if type(shape.layer_norm_eps) not in (int, float) or not 0 < shape.layer_norm_eps < 1:
        raise CheckpointError(f"{path}: layer_norm_eps is {str(shape.layer_norm_eps)[:40]}")
    if shape.num_hidden_layers > 64 or shape.hidden_size % shape.num_attention_heads:
        raise CheckpointError(f"{path}: {shape.num_hidden_layers} layers of {shape.num_attention_heads} heads, no CLIP")
    if shape.max_position_embeddings != LENGTH:
        raise CheckpointError(
            f"{path}: max_position_embeddings is {shape.max_position_embeddings}; CLIP takes {LENGTH} tokens"
        )
    if len(text.tokenizer.vocabulary) > shape.vocab_size:
        raise CheckpointError(
            f"{path}: vocab_size is {shape.vocab_size}, but its tokenizer has {len(text.tokenizer.vocabulary)} tokens"
        )
    return shape
