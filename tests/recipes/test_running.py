"""Plans are run: what is done stays done, a failure stops only what needs it, nothing of others is touched."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from cmexport.errors import UsageError
from cmexport.recipes import running, workplace
from cmexport.recipes.outcomes import exit_code
from cmexport.recipes.running import Watch, check_checkpoint, known_outcomes, run_plan
from cmexport.recipes.workplace import Workplace, only_run

RECIPE = """
[targets.onnx]
precisions = ["fp32", "fp16"]
[targets.coreml]
[devices.local]
targets = ["onnx"]
[report]
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "m.pt"
    path.write_text("weights")
    return path


@pytest.fixture
def run(planned, notes, checkpoint):
    """Run a recipe's text; gives outcomes by step, and which steps had a process."""

    def run_text(text: str = RECIPE, behave: dict | None = None, **chosen):
        (notes / "behave.json").write_text(json.dumps(behave or {}))
        (notes / "calls").unlink(missing_ok=True)
        plan = planned(text, **{"checkpoint": checkpoint, "jobs": 2, **chosen})
        outcomes = run_plan(plan, Watch())
        begun = [line.split(" begins ")[1] for line in calls(notes) if " begins " in line]
        return {outcome.step.name: outcome for outcome in outcomes}, begun

    return run_text


def calls(notes: Path) -> list[str]:
    return (notes / "calls").read_text().splitlines() if (notes / "calls").exists() else []


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


EXPECTED = {
    *("m-onnx-fp32/model.onnx", "m-onnx-fp32/manifest.json", "m-onnx-fp16/model.onnx", "m-onnx-fp16/manifest.json"),
    *("m-coreml-fp32/model.onnx", "m-coreml-fp32/manifest.json", "report.html", "report.md", "bench/local.jsonl"),
    *("bench/local.jsonl.samples/m-onnx-fp32.bin", "bench/local.jsonl.samples/m-onnx-fp16.bin"),
    *(".cmexport-run/lock", ".cmexport-run/steps/onnx.fp32.json", ".cmexport-run/steps/onnx.fp16.json"),
    *(".cmexport-run/steps/coreml.fp32.json", ".cmexport-run/steps/bench.local.json"),
    ".cmexport-run/steps/report.json",
}


def test_everything_is_done_once(run, tmp_path) -> None:
    outcomes, begun = run()
    assert {o.status for o in outcomes.values()} == {"done"}
    assert exit_code(tuple(outcomes.values())) == 0
    assert sorted(begun) == ["bench", "coreml fp32", "onnx fp16", "onnx fp32", "report"]
    assert files(tmp_path / "out") == EXPECTED
    assert outcomes["onnx/fp16"].facts["parity_db"] == 65.0
    linked = [f"![picture]({n})" for n in ("m-onnx-fp32", "m-onnx-fp16", "m-coreml-fp32", "bench/local.jsonl")]
    assert (tmp_path / "out" / "report.md").read_text().splitlines() == linked
    again, begun = run()
    assert begun == []
    assert {o.status for o in again.values()} == {"kept"}
    assert again["onnx/fp16"].facts == outcomes["onnx/fp16"].facts
    assert files(tmp_path / "out") == EXPECTED


def test_only_what_a_change_touches_is_done_again(run, checkpoint) -> None:
    run()
    _, begun = run(RECIPE.replace('"fp16"]', '"fp16"]\nseeds = 9'))
    assert sorted(begun) == ["bench", "onnx fp16", "onnx fp32", "report"]
    _, begun = run(RECIPE.replace('"fp16"]', '"fp16"]\nseeds = 9').replace("[report]", "runs = 3\n[report]"))
    assert sorted(begun) == ["bench", "report"]
    checkpoint.write_text("other weights")
    _, begun = run(RECIPE.replace('"fp16"]', '"fp16"]\nseeds = 9'), overwrite=True)
    assert sorted(begun) == ["bench", "coreml fp32", "onnx fp16", "onnx fp32", "report"]


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_results_that_are_not_what_they_were_are_made_again(run, tmp_path, damage) -> None:
    run()
    model = tmp_path / "out" / "m-onnx-fp16" / "model.onnx"
    model.unlink() if damage == "removed" else model.write_text("damaged")
    _, begun = run()
    assert begun[0] == "onnx fp16"
    assert "onnx fp32" not in begun
    assert model.read_text() == "onnx fp16 weights"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"schema_version": 2}'])
def test_a_state_file_that_says_nothing_is_not_believed(run, tmp_path, content) -> None:
    run()
    (tmp_path / "out/.cmexport-run/steps/onnx.fp16.json").write_bytes(content)
    outcomes, begun = run()
    assert "onnx fp16" in begun
    assert outcomes["onnx/fp16"].status == "done"


def test_a_failure_stops_only_what_needs_it(run, tmp_path) -> None:
    recipe = RECIPE + "[targets.late]\ntarget = 'onnx'\nneeds = ['coreml']\n"
    outcomes, begun = run(recipe, {"coreml fp32": {"code": 3}})
    assert {name: o.status for name, o in outcomes.items()} == {
        **{"onnx/fp32": "done", "onnx/fp16": "done", "coreml/fp32": "failed", "late/fp32": "waiting"},
        **{"bench:local": "done", "report": "done"},
    }
    assert outcomes["coreml/fp32"].message == "coreml fp32: made to fail in two lines"
    assert outcomes["late/fp32"].message == "needs coreml/fp32"
    assert exit_code(tuple(outcomes.values())) == 3
    assert "made to fail" in (tmp_path / "out/.cmexport-run/logs/coreml.fp32.log").read_text()
    outcomes, begun = run(recipe)
    assert sorted(begun) == ["coreml fp32", "onnx fp32", "report"], "failures are tried again"
    assert exit_code(tuple(outcomes.values())) == 0
    assert not (tmp_path / "out/.cmexport-run/logs").exists()


def test_a_missing_backend_is_skipped_where_the_recipe_says_so(run) -> None:
    behave = {"coreml fp32": {"code": 5}}
    optional = RECIPE.replace("[targets.coreml]", "[targets.coreml]\noptional = true")
    recipe = optional + "[targets.late]\ntarget = 'onnx'\nneeds = ['coreml']\n"
    outcomes, _ = run(recipe, behave)
    assert outcomes["coreml/fp32"].status == outcomes["late/fp32"].status == "skipped"
    assert exit_code(tuple(outcomes.values())) == 0
    outcomes, _ = run(RECIPE, behave)
    assert outcomes["coreml/fp32"].status == "failed"
    assert exit_code(tuple(outcomes.values())) == 5


def test_a_crash_stays_in_its_step(run) -> None:
    outcomes, _ = run(behave={"onnx fp16": {"signal": "SIGSEGV"}, "onnx fp32": {"signal": "SIGKILL"}})
    assert outcomes["onnx/fp16"].message == "killed by SIGSEGV"
    assert outcomes["onnx/fp32"].message == "killed by SIGKILL (out of memory?)"
    assert outcomes["coreml/fp32"].status == "done"
    assert outcomes["bench:local"].status == "waiting"
    assert exit_code(tuple(outcomes.values())) == 5


def test_gates(run, tmp_path) -> None:
    out = tmp_path / "out"
    run()
    outcomes, _ = run(RECIPE.replace('"fp16"]', '"fp16"]\ngate_db = { fp16 = 70 }'))
    assert outcomes["onnx/fp16"].status == "gate"
    assert "65.0 dB, the recipe asks for 70" in outcomes["onnx/fp16"].message
    assert exit_code(tuple(outcomes.values())) == 4
    assert (out / "m-onnx-fp16.rejected").is_dir()
    assert not (out / "m-onnx-fp16").exists(), "the one of the laxer recipe is not left as if it were good"
    assert [p.name for p in (out / "bench/local.jsonl.samples").iterdir()] == ["m-onnx-fp32.bin"]
    assert "m-onnx-fp16.rejected" in (out / "report.html").read_text(), "a report shows what missed its gate"
    outcomes, begun = run(RECIPE.replace('"fp16"]', '"fp16"]\ngate_db = { fp16 = 70 }'))
    assert begun == [], "it would fail again"
    assert exit_code(tuple(outcomes.values())) == 4
    run()
    assert files(out) == EXPECTED
    outcomes, _ = run(RECIPE.replace("[targets.coreml]", "[targets.coreml]\nseeds = 8"), {"coreml fp32": {"code": 4}})
    assert outcomes["coreml/fp32"].status == "gate"
    assert outcomes["coreml/fp32"].message == "the gate is missed"
    assert (out / "m-coreml-fp32.rejected").is_dir()


def test_the_worst_code_but_a_gate_comes_first(run) -> None:
    behave = {"onnx fp32": {"code": 4}, "onnx fp16": {"code": 3}, "coreml fp32": {"code": 5}}
    outcomes, _ = run(behave=behave)
    assert exit_code(tuple(outcomes.values())) == 3


def test_what_is_not_ours_is_not_touched(run, tmp_path) -> None:
    out = tmp_path / "out"
    (out / "bench").mkdir(parents=True)
    mine = {"notes.txt": "mine", "bench/local.jsonl": "my records", ".m-onnx-fp32.partial-77": "who knows"}
    for name, text in mine.items():
        (out / name).write_text(text)
    outcomes, _ = run()
    assert {name: (out / name).read_text() for name in mine} == mine
    assert outcomes["bench:local"].status == "failed"
    assert "in the way" in outcomes["bench:local"].message
    assert outcomes["report"].status == "done"
    (out / "bench/local.jsonl").unlink()
    outcomes, _ = run()
    assert outcomes["bench:local"].status == "done"


def test_an_older_artefact_of_the_checkpoint_is_replaced(run, checkpoint, tmp_path) -> None:
    old = tmp_path / "out" / "m-onnx-fp32"
    old.mkdir(parents=True)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    (old / "manifest.json").write_text(json.dumps({"schema_version": 1, "checkpoint": {"sha256": digest}}))
    (old / "old").touch()
    outcomes, _ = run()
    assert outcomes["onnx/fp32"].status == "done"
    assert files(tmp_path / "out") == EXPECTED


@pytest.mark.parametrize(
    "manifest", ["{}", json.dumps({"schema_version": 1, "checkpoint": {"sha256": "0" * 64, "file": "other.pt"}})]
)
def test_what_another_checkpoint_or_program_wrote_stays(run, tmp_path, manifest) -> None:
    old = tmp_path / "out" / "m-onnx-fp32"
    old.mkdir(parents=True)
    (old / "manifest.json").write_text(manifest)
    outcomes, _ = run()
    assert outcomes["onnx/fp32"].status == "failed"
    assert (old / "manifest.json").read_text() == manifest
    outcomes, _ = run(overwrite=True)
    assert outcomes["onnx/fp32"].status == "done"


def test_a_run_for_another_checkpoint_does_not_take_the_place_of_the_first(planned, run, checkpoint, tmp_path) -> None:
    run()
    before = {name: (tmp_path / "out" / name).read_bytes() for name in EXPECTED if name.startswith("m-")}
    other = tmp_path / "other" / "v1.5.pt"
    other.parent.mkdir()
    other.write_text("other weights")
    with pytest.raises(UsageError, match=r"another checkpoint \(m\.pt.*\n--overwrite"):
        check_checkpoint(planned(RECIPE, checkpoint=other))
    outcomes, _ = run(checkpoint=other)
    assert outcomes["onnx/fp32"].code == 2
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before
    check_checkpoint(planned(RECIPE, checkpoint=other, overwrite=True))
    outcomes, _ = run(checkpoint=other, overwrite=True)
    assert outcomes["onnx/fp32"].entries == ("v1.5-onnx-fp32",)


def test_benchmarks_run_alone_and_exports_two_at_a_time(run, notes, monkeypatch) -> None:
    monkeypatch.setenv("PRETEND_SECONDS", "0.3")
    run()
    running, most = set(), 0
    for line in calls(notes):
        process, what, name = line.split(" ", 2)
        running.add(process) if what == "begins" else running.discard(process)
        most = max(most, len(running))
        assert name not in ("bench", "report") or len(running) <= 1
    assert most == 2


def shares(notes: Path) -> dict[str, int]:
    """Threads by step; both variables say the same."""
    lines = [line.rsplit(" ", 2) for line in (notes / "threads").read_text().splitlines()]
    assert all(mine == everywhere for _, mine, everywhere in lines)
    return {name: int(mine) for name, mine, _ in lines}


def test_steps_share_the_threads(run, notes, monkeypatch) -> None:
    monkeypatch.setenv("PRETEND_SECONDS", "0.1")
    run(threads=6)
    found = shares(notes)
    # Three exports, two at a time; where two end together, the third has all for itself.
    assert found.pop("coreml fp32") in (3, 6)
    assert found == {"onnx fp32": 3, "onnx fp16": 3, "bench": 6, "report": 6}


def test_one_step_has_all_threads_and_no_step_has_none(run, notes) -> None:
    run(threads=6, jobs=1)
    assert set(shares(notes).values()) == {6}
    (notes / "threads").unlink()
    run("[targets.onnx]\nprecisions = ['int8', 'fp32']", threads=1, jobs=2)
    assert set(shares(notes).values()) == {1}


def test_threads_by_default_are_the_free_cores(run, notes, monkeypatch) -> None:
    monkeypatch.setattr("cmexport.recipes.running.default_threads", lambda: 4)
    run("[targets.onnx]\nprecisions = ['int8', 'fp32']")
    assert set(shares(notes).values()) == {2}


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_first_picture_comes_soon(planned, notes, checkpoint, jobs) -> None:
    """The lightest export begins, then the heaviest: int8 takes four times as long as fp16.

    The order is the runner's own: two processes that begin together write their notes in either order.
    """
    plan = planned("[targets.onnx]\nprecisions = ['int8', 'fp16', 'w4', 'fp32']", checkpoint=checkpoint, jobs=jobs)
    started: list[str] = []
    run_plan(plan, Watch(started=lambda step: started.append(step.name)))
    assert started == ["onnx/fp16", "onnx/int8", "onnx/w4", "onnx/fp32"]


def test_a_plan_is_made_first_and_handed_on(run, tmp_path, notes) -> None:
    _, begun = run("[targets.onnx]\nprecisions = ['int8']\nplan = 'p'\n[plans.p]\n[verify]\nfeatures = 'inception'\n")
    assert begun == ["plan", "onnx int8", "verify"]
    assert (tmp_path / "out/plans/p.toml").read_text() == "layers"
    assert not (tmp_path / "out/.cmexport-run/kept").exists()
    assert json.loads((tmp_path / "out/verify/onnx-int8.json").read_text()) == {"distance": 1}
    _, begun = run("[targets.onnx]\nprecisions = ['int8']\nplan = 'p'\n[plans.p]\npictures = 3\n")
    assert begun == ["plan"], "the same plan came out"


def test_two_runs_in_one_folder(run, tmp_path, monkeypatch) -> None:
    place = Workplace(tmp_path / "out")
    with only_run(place):
        monkeypatch.setattr(workplace, "_ORPHANS_S", 0.3)
        with pytest.raises(UsageError, match=rf"another run is working there \(process {os.getpid()}\)"):
            run()
        (place.root / "lock").write_text("")
        with pytest.raises(UsageError, match="another run"):
            run()
    run()


def test_a_plan_shows_what_is_done_without_touching_anything(planned, run, checkpoint, tmp_path) -> None:
    plan = planned(RECIPE, checkpoint=checkpoint)
    assert known_outcomes(plan) == {}
    assert not (tmp_path / "out").exists()
    run()
    assert set(known_outcomes(plan)) == {step.name for step in plan.steps}
    (tmp_path / "out/m-coreml-fp32/manifest.json").unlink()
    assert set(known_outcomes(plan)) == {"onnx/fp32", "onnx/fp16", "bench:local"}


def test_a_plan_goes_on_in_the_middle(run, tmp_path) -> None:
    recipe = "[targets.onnx]\nprecisions = ['int8']\nplan = 'p'\n[plans.p]\n"
    outcomes, _ = run(recipe, {"plan": {"code": 3}})
    (kept,) = (tmp_path / "out/.cmexport-run/kept").iterdir()
    assert (kept / "scores.json").read_text() == "1"
    (kept / ".scores.json.partial-77").touch()
    assert outcomes["onnx/int8"].status == "waiting"
    outcomes, _ = run(recipe, {"plan": {"code": 3}})
    assert (kept / "scores.json").read_text() == "2"
    assert [p.name for p in kept.iterdir()] == ["scores.json"]
    run(recipe.replace("[plans.p]", "[plans.p]\npictures = 3"), {"plan": {"code": 3}})
    assert (kept / "scores.json").read_text() == "2", "other questions have other scores"
    outcomes, _ = run(recipe)
    assert outcomes["onnx/int8"].status == "done"
    assert not (tmp_path / "out/.cmexport-run/kept").exists()


def test_a_module_that_builds_the_network(planned, tmp_path) -> None:
    (tmp_path / "nets.py").touch()
    plan = planned("[checkpoint]\nfile = 'nets.py:build'\n[targets.onnx]\n")
    assert plan.steps[0].arguments[1] == str(tmp_path / "nets.py:build")
    assert plan.steps[0].reads == (tmp_path / "nets.py",)


SHORT = "[targets.onnx]\n[devices.local]\n"
GATED = "[targets.onnx]\ngate_db = 110\n[devices.local]\n"


@pytest.mark.parametrize("moment", range(1, 10))
def test_killed_while_results_are_moved_to_their_place(planned, notes, run, checkpoint, tmp_path, moment) -> None:
    """Between any two of: what is said in advance, renames, removals, what is said in the end."""
    run(GATED, {"onnx fp32": {"db": 105}})  # a rejected artefact is there, and will have to go
    assert (tmp_path / "out/m-onnx-fp32.rejected").exists()
    plan = planned(SHORT, checkpoint=checkpoint)
    process = os.fork()
    if process == 0:
        left = iter(range(moment - 1))

        def deadly(call):
            def called(*arguments):
                call(*arguments)
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            return called

        for name in ("write_state", "move_into_place", "remove_entry"):
            setattr(running, name, deadly(getattr(running, name)))
        run_plan(plan, Watch())
        os._exit(0)
    _, ended = os.waitpid(process, 0)
    # Export: said, moved, the old one removed, said. Bench: said, moved, moved, said.
    assert os.WIFSIGNALED(ended) == (moment <= 8)
    outcomes, _ = run(SHORT)
    assert {o.status for o in outcomes.values()} <= {"done", "kept"}
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [".cmexport-run", "bench", "m-onnx-fp32"]
    assert sorted(p.name for p in (out / "bench").iterdir()) == ["local.jsonl", "local.jsonl.samples"]
    assert not list((out / ".cmexport-run/work").iterdir())
    assert not list((out / ".cmexport-run/tmp").iterdir())


def test_nothing_to_report(run) -> None:
    outcomes, begun = run("[targets.onnx]\n[report]\n", {"onnx fp32": {"code": 3}})
    assert begun == ["onnx fp32"]
    assert outcomes["report"].status == "waiting"
    assert exit_code(tuple(outcomes.values())) == 3
