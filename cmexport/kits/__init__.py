"""Kits: an artefact with the code that an app calls, its pictures to check on the device, a sample and a manual."""

from cmexport.kits.checking import check_kit
from cmexport.kits.facts import Kit
from cmexport.kits.making import make_kit
from cmexport.kits.platforms.registry import PLATFORMS, platform_named

__all__ = ["PLATFORMS", "Kit", "check_kit", "make_kit", "platform_named"]
