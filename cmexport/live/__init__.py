"""The live page: kits for browsers, served to this machine while a command runs."""

from cmexport.live.server import LiveServer
from cmexport.live.site import Site, make_site

__all__ = ["LiveServer", "Site", "make_site"]
