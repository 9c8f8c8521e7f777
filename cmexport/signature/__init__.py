"""The border of a graph: what it takes and gives, by name, and the law that each input is drawn from.

Everything that feeds a graph asks here: parity, calibration, sensitivities, previews, bench, the targets' descriptions.
"""

from cmexport.signature.border import Input, Output, Signature
from cmexport.signature.laws import Choice, Embedding, Hole, Law, Normal, Photo, Range, Rows, Tokens

__all__ = [
    "Choice",
    "Embedding",
    "Hole",
    "Input",
    "Law",
    "Normal",
    "Output",
    "Photo",
    "Range",
    "Rows",
    "Signature",
    "Tokens",
]
