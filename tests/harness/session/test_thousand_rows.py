"""What a thousand rows take in the memory of a session, wherever their cells run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.harness import messages
from plumbline.harness.machine import Machine
from plumbline.harness.messages import PROTOCOL, Exited, Hello
from tests.fake import AGREEMENT
from tests.records import latency_of, prepared_of

ROWS, SAMPLES = 1000, 500

# A probe without a net: it has one answer to each question. Arguments: a JSON object of lines.
PROBE = """
import json, sys
lines = json.loads(sys.argv[1])
print(lines["hello"], flush=True)
for line in sys.stdin:
    asked = json.loads(line.replace(chr(0), ""))
    print(lines.get(asked.get("question", asked["type"])), flush=True)
"""

# A session of so many cells on a target; prints its peak in KiB. Arguments: target, folder, file of places.
SESSION = """
import sys
from pathlib import Path
from plumbline.harness.cell import Cell
from plumbline.harness.journal import Journal
from plumbline.harness.session import places
from plumbline.harness.session.session import Session
from plumbline.harness.settings import Settings
target, folder, file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
places.load(file)
if target == "cpu":
    places.find("").command = places.find("there").command
with (folder / "log").open("wb") as log:
    session = Session(Settings(), Journal(folder / "run", resume=False), log, lambda text: None)
    for batch in range(1, int(sys.argv[4]) + 1):
        probe = session.open(Cell("mlp", "dense", "eager", "fp32", batch, 8, target), None)
        probe.agreement(), probe.latency()
        assert session.finish(probe, "ok", None).latency.model.samples_s
    session.close()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # ru_maxrss holds the parent's
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from Linux")
def test_a_thousand_remote_rows_take_no_more_memory_than_local_ones(tmp_path: Path) -> None:
    told = {
        "hello": Hello(PROTOCOL, Machine(id="fake", torch="2")),
        "Open": messages.answer(prepared_of()),
        "agreement": messages.answer(AGREEMENT),
        "latency": messages.answer(latency_of(samples=SAMPLES)),
        "Close": Exited("cell"),
    }
    lines = json.dumps({kind: messages.encode(message).decode() for kind, message in told.items()})
    command = json.dumps([sys.executable, "-c", PROBE, lines])
    (tmp_path / "targets.toml").write_text(f"[place.there]\ncommand = {command}\n")

    def peak_bytes(target: str, rows: int) -> int:
        folder = tmp_path / f"{target}{rows}"
        folder.mkdir()
        arguments = [target, str(folder), str(tmp_path / "targets.toml"), str(rows)]
        done = subprocess.run([sys.executable, "-c", SESSION, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout) * 1024

    here, there, few = peak_bytes("cpu", ROWS), peak_bytes("there", ROWS), peak_bytes("there", 10)
    assert there < here + 5e6, f"{there / 1e6:.0f} MB there, {here / 1e6:.0f} MB here"
    assert there < few + 15e3 * ROWS, f"{there / 1e6:.0f} MB of {ROWS} rows, {few / 1e6:.0f} MB of 10: no samples are kept"
    print(f"{ROWS} rows: {here / 1e6:.0f} MB here, {there / 1e6:.0f} MB there; 10 rows: {few / 1e6:.0f} MB")
