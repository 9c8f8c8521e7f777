"""CLIP's text encoder, tokens to embeddings, with the weights' names of transformers' `CLIPTextModel`.

The library's own class brings a mask of -inf, which half precision and palettes can't hold, and 40 operations around
each attention that guard against rows without any word; here the mask is one constant of -500, whose exponential is 0
in float32 as well (scores lie within some 30). With -1e4 an NPU's 16-bit codes of scores would have steps of 0.15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "gelu": nn.functional.gelu,
    }
)
"""By the name in `config.json`: OpenAI's CLIP has quick_gelu, OpenCLIP's gelu."""


@dataclass(frozen=True)
class TextEncoderShape:
    """Sizes of a text encoder, by the names of its `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


class _Embeddings(nn.Module):
    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embedding = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.token_embedding(tokens)
        return embedded + self.position_embedding.weight


class _Attention(nn.Module):
    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        width, self.heads = shape.hidden_size, shape.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        def heads(projected: Tensor) -> Tensor:
            return projected.reshape(*projected.shape[:2], self.heads, -1).transpose(1, 2)

        # Spelled out: targets have attention of their own only without a mask. The scale folds into q's weights.
        query = heads(self.q_proj(x) * (x.shape[2] // self.heads) ** -0.5)
        scores = query @ heads(self.k_proj(x)).transpose(2, 3) + mask
        attended = scores.softmax(dim=-1) @ heads(self.v_proj(x))
        result: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return result


class _Mlp(nn.Module):
    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[shape.hidden_act]
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(self.activation(self.fc1(x)))
        return result


class _Layer(nn.Module):
    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.self_attn = _Attention(shape)
        self.layer_norm1 = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.mlp = _Mlp(shape)
        self.layer_norm2 = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        result: Tensor = x + self.mlp(self.layer_norm2(x))
        return result


class _Encoder(nn.Module):
    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(shape) for _ in range(shape.num_hidden_layers)])


class ClipTextEncoder(nn.Module):
    """Tokens (N, 77) int64 to the last layer's normed states (N, 77, D) float32.

    Radford et al. 2021 (arXiv:2103.00020), huggingface/transformers `models/clip/modeling_clip.py`.
    """

    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = _Embeddings(shape)
        self.encoder = _Encoder(shape)
        self.final_layer_norm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode sentences; a word sees those before it."""
        mask = _causal(self.shape)
        x = self.embeddings(tokens)
        for layer in self.encoder.layers:
            x = layer(x, mask)
        result: Tensor = self.final_layer_norm(x)
        return result


class ClipStates(nn.Module):
    """Tokens (N, 77) to the states before a text encoder's last `left` layers, (N, 77, D), not normed."""

    def __init__(self, encoder: ClipTextEncoder, left: int) -> None:
        super().__init__()
        self.shape = encoder.shape
        self.embeddings, self.layers = encoder.embeddings, encoder.encoder.layers[:-left]

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode sentences."""
        mask = _causal(self.shape)
        x: Tensor = self.embeddings(tokens)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class ClipTextProjection(ClipTextEncoder):
    """A text encoder with the projection of its pooled state, transformers' `CLIPTextModelWithProjection`."""

    def __init__(self, shape: TextEncoderShape, channels: int) -> None:
        super().__init__(shape)
        self.text_projection = nn.Linear(shape.hidden_size, channels, bias=False)


class SecondTokens(nn.Module):
    """Tokens of a first tokenizer (N, 77) int64 to those of a second that differs in its padding.

    Stable Diffusion XL's second tokenizer pads with "!", which by that becomes a special token of its own: where the
    first says "!" at a word's end, the second says 0 too (see `tokenizer.second`).

    Args:
        end: ends a prompt in both, and pads the first.
        pad: pads the second.
        replaced: tokens of the first and what the second has for them.
    """

    def __init__(self, end: int, pad: int, replaced: Mapping[int, int]) -> None:
        super().__init__()
        self.end, self.pad, self.replaced = end, pad, dict(replaced)

    def forward(self, tokens: Tensor) -> Tensor:
        """Translate tokens."""
        padding = torch.arange(tokens.shape[1]) > _ends(tokens, self.end)
        for first, second in self.replaced.items():
            tokens = torch.where(tokens == first, second, tokens)
        return torch.where(padding, self.pad, tokens)


class ClipPair(nn.Module):
    """Tokens (N, 77) to two encoders' states before their last `left` layers, side by side, (N, 77, D1 + D2).

    Podell et al. 2023 (arXiv:2307.01952), section 2.1; diffusers' `StableDiffusionXLPipeline.encode_prompt`.
    """

    def __init__(
        self, first: ClipTextEncoder, second: ClipTextEncoder, translated: SecondTokens, left: int = 1
    ) -> None:
        super().__init__()
        self.translated = translated
        self.first, self.second = ClipStates(first, left), ClipStates(second, left)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The encoders, by the names that they have in a pipeline."""
        return {"text_encoder": self.first, "text_encoder_2": self.second}

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode sentences by both."""
        return torch.cat([self.first(tokens), self.second(self.translated(tokens))], dim=2)


class ClipPooled(nn.Module):
    """The second encoder's last layers and what follows them, to one vector a prompt, (N, P): the state at its end.

    Args:
        encoder: the second one, whole.
        before: width of the first's states, which stand before the second's in embeddings.
        end: the token that ends a prompt.
        left: how many layers are left after the states in embeddings.
    """

    def __init__(self, encoder: ClipTextProjection, before: int, end: int, left: int = 1) -> None:
        super().__init__()
        self.shape, self.before, self.end = encoder.shape, before, end
        self.layers = encoder.encoder.layers[-left:]
        self.final_layer_norm, self.text_projection = encoder.final_layer_norm, encoder.text_projection

    @property
    def parts(self) -> dict[str, nn.Module]:
        """It belongs to the second encoder; see `ClipPair.parts`."""
        return {"text_encoder_2": self}

    def forward(self, tokens: Tensor, embeddings: Tensor) -> Tensor:
        """Pool prompts: their tokens (N, 77), and what `ClipPair` makes of these, (N, 77, D1 + D2)."""
        mask = _causal(self.shape)
        states = embeddings[:, :, self.before :]
        for layer in self.layers:
            states = layer(states, mask)
        states = self.final_layer_norm(states)
        # Products with 0 and 1: no target needs to gather by numbers that it doesn't know beforehand.
        chosen = (torch.arange(tokens.shape[1]) == _ends(tokens, self.end)).to(states.dtype)
        result: Tensor = self.text_projection((states * chosen[:, :, None]).sum(dim=1))
        return result


def _causal(shape: TextEncoderShape) -> Tensor:
    length = shape.max_position_embeddings
    return torch.full((length, length), -500.0).triu(1)


def _ends(tokens: Tensor, end: int) -> Tensor:
    """Return where prompts end first, (N, 1), as transformers' `CLIPTextTransformer`."""
    return (tokens == end).to(torch.int32).argmax(dim=1, keepdim=True)
