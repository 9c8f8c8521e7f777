"""CLIP's text encoders out of a pipeline's parts: configurations checked, networks of ours filled."""

from __future__ import annotations

from dataclasses import fields

from cmexport.checkpoints.diffusers_networks import filled
from cmexport.checkpoints.latent_parts import Text
from cmexport.errors import CheckpointError
from cmexport.networks.clip_text import ACTIVATIONS, ClipTextEncoder, TextEncoderShape
from cmexport.networks.meta import on_meta
from cmexport.tokenizer.clip import LENGTH


def text_encoder_of(text: Text) -> ClipTextEncoder:
    """Build a text encoder and fill it.

    Raises:
        CheckpointError: another kind of encoder, sizes that are none, or weights that don't fit them.
    """
    encoder = on_meta(lambda: ClipTextEncoder(_shape(text)))
    return filled(encoder, text.encoder.weights, text.encoder.read())


def _shape(text: Text) -> TextEncoderShape:
    path, config = text.encoder.where, text.encoder.config
    kind = config.get("architectures") or ["CLIPTextModel"]
    if kind != ["CLIPTextModel"]:
        shown = kind[0] if isinstance(kind, list) else kind
        raise CheckpointError(f"{path}: is a {str(shown)[:80]}; only CLIPTextModel is supported")
    nested = config.get("text_config")
    config = {**config, **(nested if isinstance(nested, dict) else {})}
    known_fields = {f.name: config[f.name] for f in fields(TextEncoderShape) if f.name in config}
    for name, value in known_fields.items():
        whole = name not in ("hidden_act", "layer_norm_eps")
        if whole and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000):
            raise CheckpointError(f"{path}: {name} is {str(value)[:40]}")
    try:
        shape = TextEncoderShape(**known_fields)
    except TypeError as error:
        raise CheckpointError(f"{path}: describes no CLIPTextModel ({error})") from error
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
