"""The first picture's time is read from what `cmexport run` says; what never sleeps is ended in the end."""

from __future__ import annotations

from benchmarks import demo_under_load


def test_both_times_are_read_and_nothing_is_left_running(monkeypatch, tmp_path) -> None:
    """A stand-in for Python that says what the verb says."""
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\necho done\necho 'first picture after 7 s: out/a/preview.png' >&2\nsleep 0.1\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(demo_under_load.sys, "executable", str(stand_in))
    started = []
    plain = demo_under_load.subprocess.Popen
    monkeypatch.setattr(
        demo_under_load.subprocess, "Popen", lambda *a, **k: started.append(plain(*a, **k)) or started[-1]
    )
    first, spent = demo_under_load.beside(2, tmp_path / "x.toml")
    assert first == 7.0
    assert spent >= 0.1
    assert all(process.poll() is not None for process in started)
