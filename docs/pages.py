r"""What `make docs` changes on a page: GitHub shows these files too; there tables need `\|`, and links name files."""

from __future__ import annotations

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Show pipes in tables as pipes, options in one piece, and links without the `.md` of the file they lead to."""
    html = re.sub(r"(<td.*?</td>)", lambda cell: cell[0].replace("\\|", "|"), html, flags=re.DOTALL)
    html = re.sub(r"<code>[^<]*</code>", lambda code: re.sub(r"--?[a-z][\w-]*", r"<span>\g<0></span>", code[0]), html)
    return re.sub(r">(\w+)\.md</a>", r">\1</a>", html)
