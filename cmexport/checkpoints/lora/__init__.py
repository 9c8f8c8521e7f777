"""LoRA files: small weights that are added to a checkpoint's own, `W + scale * alpha / r * up @ down`.

Hu et al. 2021 (arXiv:2106.09685). Read in the spellings of kohya-ss/sd-scripts, peft and diffusers, and merged before
the network is built, so that nothing below knows of them.
"""

from cmexport.checkpoints.lora.choosing import LoraChoice, lora_choices, lora_text
from cmexport.checkpoints.lora.merging import LoraMerger, merged_source

__all__ = ["LoraChoice", "LoraMerger", "lora_choices", "lora_text", "merged_source"]
