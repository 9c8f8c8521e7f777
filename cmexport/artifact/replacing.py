"""When a new artefact may take the place of what stands there: an older export of the same thing, or on request.

Artefacts are named after checkpoint, target and precision, so two checkpoints of one file name, or one checkpoint with
two schedules, want the same folder. Only `--overwrite` decides that the older one goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmexport.artifact.manifest import MANIFEST_NAME
from cmexport.artifact.version1 import upgraded
from cmexport.errors import CmexportError, UsageError
from cmexport.targets.registry import INFOS

_MAX_MANIFEST_BYTES = 64_000_000
_WAY_OUT = "--overwrite replaces it, -o writes elsewhere"


@dataclass(frozen=True)
class Subject:
    """What an artefact is of: everything that decides which pictures it draws and how it is called.

    Attributes:
        sha256: of the checkpoint.
        graphs: by task, what its graph is: levels, label, batch and so on, as plain data.
        settings: constants of the model, by name.
        version: of cmexport; others may know other constants.
    """

    sha256: str
    graphs: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    version: str


@dataclass
class Replacement:
    """Decides on what stands in an artefact's place, and remembers what it let go.

    Attributes:
        subject: of the new artefact.
        overwrite: replace anything.
        replaced: what stands in the place that was checked last, in words; empty where nothing does.
    """

    subject: Subject
    overwrite: bool = False
    replaced: str = field(default="", init=False)

    def check(self, folder: Path) -> None:
        """Refuse to replace `folder`, or note what it is.

        Raises:
            UsageError: it isn't an older export of the same subject, and `overwrite` is not given.
        """
        self.replaced = ""
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        manifest = manifest_facts(folder)
        reason = conflict(manifest, self.subject) or _unlisted(folder, manifest or {})
        if reason is not None and not self.overwrite:
            raise UsageError(f"{folder}: {reason};\n{_WAY_OUT}")
        self.replaced = _in_words(manifest)


def manifest_facts(folder: Path) -> Mapping[str, Any] | None:
    """A manifest as plain data, of whatever version; None where the folder has none of cmexport's."""
    path = folder / MANIFEST_NAME
    try:
        if not path.is_file() or path.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    # Web applications have a manifest.json too.
    return found if isinstance(found, dict) and "schema_version" in found and "checkpoint" in found else None


def conflict(manifest: Mapping[str, Any] | None, new: Subject) -> str | None:
    """Why an artefact of that manifest is not an older export of the same subject; None where it is one."""
    if manifest is None:
        return _foreign(manifest)
    if (other := other_checkpoint(manifest, new.sha256)) is not None:
        return other
    try:
        differences = list(_differences(manifest, new))
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration, CmexportError):
        return f"holds an artefact whose {MANIFEST_NAME} this version can't read"
    return None if not differences else f"holds another export of this checkpoint: {', '.join(differences[:3])}"


def other_checkpoint(manifest: Mapping[str, Any], sha256: str) -> str | None:
    """What to say of an artefact that was made from other weights; None where it was made from these."""
    checkpoint = manifest.get("checkpoint")
    facts = checkpoint if isinstance(checkpoint, Mapping) else {}
    found = str(facts.get("sha256", ""))
    if found == sha256:
        return None
    return f"holds an artefact of another checkpoint ({str(facts.get('file', '?'))[:80]}, SHA-256 {found[:12]})"


def _foreign(manifest: Mapping[str, Any] | None) -> str | None:
    return (
        f"holds something else than an artefact ({MANIFEST_NAME} is missing, or not cmexport's)"
        if not manifest
        else None
    )


def _differences(manifest: Mapping[str, Any], new: Subject) -> list[str]:
    # Of targets without that option the one runtime stands there, whose name says nothing.
    ep = manifest["session"]["ep"] if "ep" in INFOS[manifest["target"]].by_name else None
    if manifest["schema_version"] == 1:
        manifest = upgraded(manifest)
    graphs = {graph["name"]: graph for graph in manifest["graphs"]}
    outputs = {run: graphs[names[-1]]["signature"]["output"] for run, names in manifest["runs"].items()}
    runs = manifest.get("functions") or ({**manifest, "name": next(iter(outputs))},)
    parts = {run: len(names) for run, names in manifest["runs"].items()}
    levels = {run: _levels([graphs[name] for name in names]) for run, names in manifest["runs"].items()}
    old = {
        name: _graph({**run, "output": outputs[name], "levels_of": levels[name]}, ep, parts[name])
        for run in runs
        for name in [str(run["name"])]
    }
    if set(old) != set(new.graphs):
        return [f"task {','.join(old)}, not {','.join(new.graphs)}"]
    found = []
    for task, graph in new.graphs.items():
        for name, value in _plain(graph).items():
            if old[task][name] != value:
                found.append(f"{name} {_shown(old[task][name])}, not {_shown(value)}")
    settings = {str(s["name"]): s["value"] for s in manifest["checkpoint"]["settings"]}
    wanted = _plain(new.settings)
    # Another version may name more constants; of the same one, a constant that one of them lacks is a difference.
    names = set(settings) | set(wanted) if manifest["cmexport_version"] == new.version else set(settings) & set(wanted)
    found += [
        f"{name} {_shown(settings.get(name))}, not {_shown(wanted.get(name))}"
        for name in sorted(names)
        if settings.get(name) != wanted.get(name)
    ]
    return list(dict.fromkeys(found))


def _levels(graphs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Inputs of a manifest's graphs that are rounded to some values, and to how many."""
    inputs = [i for graph in graphs for i in graph["signature"].get("inputs", ())]
    return {str(i["name"]): int(i["parameters"]["steps"]) for i in inputs if "steps" in (i.get("parameters") or {})}


def _graph(facts: Mapping[str, Any], ep: str | None, parts: int) -> dict[str, Any]:
    """The same facts as `Subject.graphs` has, out of a manifest."""
    label, output = facts.get("label"), facts["output"]
    return {
        "steps": len(facts["sampling"]["evaluations"]),
        "sigmas": facts["sampling"]["sigmas"],
        "label": "an input" if label is None else label,
        "patch": facts.get("patch"),
        "batch": output["shape"][0],
        "output": "uint8" if output["dtype"] == "uint8" else "float",
        "sampler": facts["sampling"].get("sampler", "consistency"),
        "eta": facts["sampling"].get("eta"),
        "gamma": facts["sampling"].get("gamma"),
        "levels_of": facts["levels_of"],
        "output_transform": (facts["sampling"].get("transform") or {}).get("name"),
        **prompt_facts(facts.get("wording")),
        "packaging": "staged" if parts > 1 else "one",
        "ep": ep,
    }


def prompt_facts(wording: Mapping[str, Any] | None) -> dict[str, Any]:
    """Facts of `Subject.graphs` about prompts, out of a manifest's `wording`."""
    facts = wording or {}
    guidance = "an input" if facts.get("guidance_input") else facts.get("guidance")
    return {"condition": facts.get("condition"), "prompts": list(facts.get("prompts", ())), "guidance": guidance}


def _unlisted(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """A file that the manifest doesn't know is the user's own; hidden ones are their system's."""
    listed = {MANIFEST_NAME, *(str(f.get("path")) for f in manifest.get("files", ()) if isinstance(f, Mapping))}
    tops = {path.partition("/")[0] for path in listed}
    own = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name not in tops)
    return f"holds {own[0]} besides the artefact" if own else None


def _in_words(manifest: Mapping[str, Any] | None) -> str:
    if manifest is None:
        return "a folder that was no artefact"
    checkpoint = manifest.get("checkpoint")
    name = checkpoint.get("file", "?") if isinstance(checkpoint, Mapping) else "?"
    return f"the artefact of {str(name)[:80]} that was written {str(manifest.get('created', '?'))[:20]}"


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(facts)))
    return plain


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
