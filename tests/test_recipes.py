"""The recipes of docs/lab.md: files for queues that are not ours. Those of GitHub and GitLab are checked in `tox -e lint`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parent.parent / "docs" / "recipes"
DEBIAN = "/usr/bin/python3"  # which has lava_common
VALIDATE = (
    "import sys, yaml; from lava_common.schemas import validate; validate(yaml.safe_load(sys.stdin), strict=True); print('fits')"
)


def test_a_job_of_slurm_measures_on_the_board_of_its_licence(tmp_path: Path) -> None:
    pytest_there = tmp_path / "plumbline" / ".venv" / "bin" / "pytest"
    pytest_there.parent.mkdir(parents=True)
    pytest_there.write_text('#!/bin/sh\necho "$@"\n')
    pytest_there.chmod(0o755)
    environment = {**os.environ, "HOME": str(tmp_path), "SLURM_JOB_ID": "7"}
    ran = subprocess.run([RECIPES / "slurm.sh", "orin-1", "--tier", "smoke"], capture_output=True, text=True, env=environment)
    assert ran.stdout == "benchmarks/ --target ssh:orin-1 --wait 60 --run-dir runs/slurm-7 --tier smoke\n", ran.stderr


def test_a_job_of_lava_fits_its_schema() -> None:
    def validated(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([DEBIAN, "-c", VALIDATE], input=text, capture_output=True, text=True)

    if (
        shutil.which(DEBIAN) is None
        or subprocess.run([DEBIAN, "-c", "import lava_common.schemas, yaml"], capture_output=True).returncode
    ):
        reason = "expected lava_common (Debian: lava-common), found none"
        pytest.fail(reason) if "lava" in os.environ.get("PLUMBLINE_EXPECTED", "") else pytest.skip(reason)
    job = (RECIPES / "lava.yaml").read_text()
    assert validated(job).stdout == "fits\n"
    assert "extra keys not allowed" in validated(job.replace("image:", "picture:")).stderr
