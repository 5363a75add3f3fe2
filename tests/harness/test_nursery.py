"""A Python of the nursery is one, and no verdict of these tests hangs on speed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from plumbline.harness.nursery import Nursery, serving


def test_no_example_has_a_deadline() -> None:
    assert settings().deadline is None


@pytest.mark.parametrize(
    "code",
    [
        "import os, sys; print(sys.argv, os.getcwd(), os.environ['COLOUR'], sorted(os.environ) == sys.argv[2:], input())",
        "import sys; print('in the end', file=sys.stderr); sys.exit(3)",
        "import sys; sys.exit('why')",
        "import os; os.kill(os.getpid(), 15)",
        "import os; os.kill(os.getpid(), 9)",
        "raise ValueError('so')",
        "import own; print(own.__file__)",
        "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(4)'], capture_output=True).stdout)",
    ],
)
def test_it_does_what_python_does(python: str, tmp_path: Path, code: str) -> None:
    (tmp_path / "own.py").touch()
    environment = {**os.environ, "COLOUR": "red"}
    ended = [
        subprocess.run(
            [executable, "-c", code, "one", *sorted(environment)],
            capture_output=True, text=True, input="hello", cwd=tmp_path, env=environment,
        )
        for executable in (python, sys.executable)
    ]  # fmt: skip
    assert ended[0].returncode == ended[1].returncode
    assert ended[0].stdout == ended[1].stdout
    assert ended[0].stderr.splitlines()[-1:] == ended[1].stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    ("variables", "arguments", "fork"),
    [
        ({}, ["-c"], True),
        ({"KMP_INIT_AT_FORK": "FALSE"}, ["-c"], True),
        ({"OMP_NUM_THREADS": "7"}, ["-c"], False),
        ({"PYTHONOPTIMIZE": "1"}, ["-c"], False),
        ({}, ["-O", "-c"], False),
    ],
)
def test_what_a_fork_cannot_take_up_is_left_to_an_ordinary_one(
    python: str, variables: dict[str, str], arguments: list[str], fork: bool
) -> None:
    code = "import sys; sys.exit(10 + ('torch' in sys.modules))"
    assert subprocess.run([python, *arguments, code], env={**os.environ, **variables}).returncode == 10 + fork


def test_it_ends_when_its_launcher_is_killed(python: str) -> None:
    code = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        worker = int(launcher.stdout.readline())
        assert worker != launcher.pid
        launcher.kill()
        assert launcher.stdout.read() == ""  # its pipe is closed when it is gone


def test_its_python_may_lie_in_a_folder_with_a_space(tmp_path: Path) -> None:
    """As that of a user's environment; and it holds nothing but what was asked for."""
    real = tmp_path / "my project" / "python"
    real.parent.mkdir()
    real.symlink_to(Path(sys.executable).resolve())
    nursery = Nursery(serving(["json"], str(real)))
    code = "import os, sys; print(os.getppid(), 'plumbline' in sys.modules, sys.argv[1])"
    try:
        found = [subprocess.run([nursery.python, "-c", code, "a b"], capture_output=True, text=True).stdout for _ in range(2)]
    finally:
        nursery.close()
    assert [text.split(maxsplit=1)[1] for text in found] == ["False a b\n"] * 2


def test_one_that_cannot_import_what_was_asked_for_says_so(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, pytest.raises(RuntimeError, match="did not start"):
        Nursery(serving(["no_such_module"]), log=log)
    assert "no_such_module" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("temporary", ["plain", "with a space"])
def test_it_leaves_nothing(tmp_path: Path, temporary: str) -> None:
    """Nor where its executable could not be started in the folder of temporary files."""
    (tmp_path / temporary).mkdir()
    nursery = Nursery(serving([]), {**os.environ, "TMPDIR": str(tmp_path / temporary)})
    folder = Path(nursery.python).parent
    assert folder.is_dir() and folder.is_relative_to(tmp_path / temporary) == (temporary == "plain")
    assert subprocess.run([nursery.python, "-c", "print(4)"], capture_output=True, text=True).stdout == "4\n"
    nursery.close()
    assert not folder.exists()
