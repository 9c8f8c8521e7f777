"""What a graph takes is asked of its signature: few places decide by an input's name, and this counts them.

`python tests/test_input_names.py [FOLDER]` lists them.
"""

from __future__ import annotations

import ast

from support.named_in_code import Count

COUNT = Count(
    {
        "noise",
        "renoise",
        "label",
        "image",
        "mask",
        "edited",
        "tokens",
        "embeddings",
        "guidance",
        "prompt",
        "difficulty",
        "global_cond",
        "actions",
    },
    lookups={"get", "pop", "setdefault", "takes", "index"},
    subject={"signature", "networks"},
)
MOST_FILES = 8


def test_the_count_sees_each_form() -> None:
    forms = 'x == "noise"', 'x in ("a", "mask")', 'd["label"]', 'd.get("image", 0)', 'match x:\n case "renoise": pass'
    assert [name for form in forms for _, name in COUNT.decisions(ast.parse(form))] == [
        "noise",
        "mask",
        "label",
        "image",
        "renoise",
    ]
    assert not list(COUNT.decisions(ast.parse('f(noise=1); {"label": 2}; "image"')))


def test_few_files_decide_by_the_name_of_an_input() -> None:
    files = COUNT.found()
    assert len(files) <= MOST_FILES, files


if __name__ == "__main__":
    COUNT.show()
