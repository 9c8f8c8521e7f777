"""Apple's packages are an extra, and not imported before they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cmexport.errors import BackendError
from cmexport.targets.coreai import library
from cmexport.targets.coreai.target import CoreAiTarget
from cmexport.targets.info import LoweringOptions


@pytest.mark.parametrize("name", ["converter", "assets", "runtime"])
def test_without_the_packages_the_extra_is_named(monkeypatch, name):
    for module in ("coreai_torch", "coreai", "coreai.authoring", "coreai.runtime"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=r"pip install 'cmexport\[coreai\]'"):
        getattr(library, name)()
    with pytest.raises(BackendError, match=r"pip install 'cmexport\[coreai\]'"):
        CoreAiTarget().rewrites_for(LoweringOptions())


def test_packages_that_do_not_load_say_why(monkeypatch):
    def refuse(name):
        raise ImportError("libc.so.6: version `GLIBC_2.34' not found\nmore")

    monkeypatch.setattr(library.importlib, "import_module", refuse)
    with pytest.raises(BackendError, match=r"can't be loaded here: libc\.so\.6.*GLIBC_2\.34' not found$"):
        library.runtime()


def test_other_targets_are_used_without_any_of_it():
    code = (
        "import sys; from cmexport.targets.registry import target_named; import cmexport.cli.exporting;"
        "from cmexport.targets.onnx.info import OnnxOptions; target_named('onnx').rewrites_for(OnnxOptions());"
        "assert not {m.split('.')[0] for m in sys.modules} & {'coreai', 'coreai_torch', 'coremltools'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
