"""Manifests of version 1: one border for each task, whose inputs have laws in no other form than their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmexport.artifact.border_record import SignatureRecord
from cmexport.sampling.editing import task_named
from cmexport.signature import Output, Signature, known
from cmexport.targets.registry import INFOS

_ROLES = ("model", "weights", "engine", "layers")


def upgraded(old: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts as version 2 has them; what is damaged otherwise is left for its validation to find.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, CmexportError: borders, tasks or schedules are damaged.
    """
    functions = old.get("functions") or ()
    new = {**_renamed(old), "schema_version": 2, "functions": [_renamed(f) for f in functions]}
    runs = [(f["name"], f, f["files"]) for f in functions]
    runs = runs or [(old["task"], old, [f["path"] for f in old["files"]])]
    lowered = {f["path"] for f in old["files"] if f["role"] in _ROLES}
    new["graphs"] = [
        {"name": name, "files": [p for p in files if p in lowered], "signature": _border(facts, old)}
        for name, facts, files in runs
    ]
    return {**new, "runs": {name: [name] for name, _, _ in runs}}


def _renamed(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in facts.items() if k not in ("inputs", "outputs", "precision_plan")}
    return {**kept, "numerics": facts["precision_plan"]}


def _border(facts: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    task, sampling = task_named(facts["task"]), facts["sampling"]
    inputs = [
        known.recorded(
            *(i["name"], tuple(i["shape"]), i["dtype"], i["meaning"]),
            classes=whole["classes"],
            image_noise=task.image_noise(sampling["sigmas"][0]),
        )
        for i in facts["inputs"]
    ]
    (out,) = facts["outputs"]
    made = known.finished(
        (1, 1, 1, 1), as_bytes=out["dtype"] == "uint8", clamp=sampling["clamp"], put_back=task.put_back
    )
    output = Output(out["name"], tuple(out["shape"]), out["dtype"], made.layout, made.range, out["meaning"])
    border = Signature(tuple(inputs), output)
    # Apple's files take int32 labels, but what the first ones wrote down was the captured graph's int64.
    narrow = whole["target"] in INFOS and INFOS[whole["target"]].integers != "int64"
    return SignatureRecord.of(border.without_int64() if narrow else border).model_dump(mode="json")
