"""What a table says below its rows."""

from __future__ import annotations

from plumbline.harness.facts import Accuracy
from plumbline.harness.record import Record
from plumbline.harness.views.table import notes
from tests.records import prepared_of, record_of


def record(reason: str | None, source: str = "x") -> Record:
    return record_of(accuracy=Accuracy(unavailable=reason), prepared=prepared_of(source=source))


def test_how_to_get_pictures_and_weights_is_said_in_one_line() -> None:
    """Whatever each of them lacks; a reason of another kind keeps its own line."""
    seeded = [f"no weights for {name} on cifar10: no --weights DIR was given" for name in ("resnet8", "resnet20", "resnet56")]
    lacking = [*(record(reason, reason) for reason in seeded), record("no data root was given; --data ROOT, where ...")]
    told = notes([*lacking, record("ssdlite does not name one class for a picture"), record(None)])
    lines = [line for line in told if line.startswith("no top-1")]
    assert len(lines) == 2
    assert lines[0].startswith("no top-1 in 4 of 6 rows: ")
    assert all(words in lines[0] for words in ("plumbline data ", "--data ROOT", "--weights DIR", "--weights pretrained"))
    assert lines[1] == "no top-1: ssdlite does not name one class for a picture"
