"""What a target is and can do is asked of its `TargetInfo`: few places decide by a target's name, and this counts them.

`python tests/test_target_names.py [FOLDER]` lists them.
"""

from __future__ import annotations

import ast

from support.named_in_code import Count

COUNT = Count(
    # Not asked of the registry: the count is to work on other checkouts too.
    {"onnx", "coreml", "coreai", "tensorrt"},
    lookups={"get", "pop", "setdefault", "index", "startswith", "endswith"},
    subject={"targets"},
    keys=True,
    called="target",
)
# ONNX Runtime has an execution provider of that name.
MOST_FILES = 1


def test_the_count_sees_each_form() -> None:
    forms = (
        'x == "onnx"',
        'x in ("a", "coreml")',
        'd["coreai"]',
        'd.get("tensorrt", 0)',
        '{"onnx": 1}',
        'Literal["coreml", "a"]',
        'target_named("coreai")',
        'match x:\n case "tensorrt": pass',
    )
    named = [name for form in forms for _, name in COUNT.decisions(ast.parse(form))]
    assert named == ["onnx", "coreml", "coreai", "tensorrt"] * 2
    assert not list(COUNT.decisions(ast.parse('f("onnx"); x = "coreml"; import_module("onnx")')))


def test_few_files_decide_by_the_name_of_a_target() -> None:
    files = COUNT.found()
    assert len(files) <= MOST_FILES, files


if __name__ == "__main__":
    COUNT.show()
