"""`python -m cmexport`."""

from cmexport.cli.main import run

run()
