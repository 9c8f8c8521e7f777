"""coremltools is an extra, and silent."""

import subprocess
import sys

import pytest

from cmexport.errors import BackendError
from cmexport.targets.coreml import library


def test_without_coremltools_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(BackendError, match=r"pip install 'cmexport\[coreml\]'"):
        library.coremltools()
    with pytest.raises(BackendError, match=r"pip install 'cmexport\[coreml\]'"):
        library.specification()


def test_importing_says_nothing():
    code = "from cmexport.targets.coreml.library import coremltools as c; assert c().__version__"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_the_executor_is_imported_without_coremltools():
    code = (
        "import sys; import cmexport.targets.coreml.executor; "
        "assert not any(m.split('.')[0] == 'coremltools' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_libraries_of_other_kinds_of_models_are_neither_imported_nor_lost():
    code = (
        "import sys; from cmexport.targets.coreml.library import coremltools as c; c(); c();"
        "assert not {'sklearn', 'xgboost', 'libsvm', 'pandas'} & set(sys.modules);"
        "sys.modules['xgboost'] = xgboost = type(sys)('xgboost'); c(); assert sys.modules['xgboost'] is xgboost;"
        "import importlib.util as u; assert u.find_spec('sklearn') is None or __import__('sklearn').__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
