"""What a report is written to: a file, whose ending says as what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from plumbline import PlumblineError
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.report import static, tables
from plumbline.texts import number_of, size

DRAWN = ("altair", "vl_convert")
# By ending: the packages that it takes, beside those that plumbline always has.
NEEDS: dict[str, tuple[str, ...]] = {
    ".html": (*DRAWN, "itables", "jinja2"),
    ".md": (),
    ".csv": ("polars",),
    ".parquet": ("polars",),
}
TITLE = "plumbline report"


class NotWritten(PlumblineError, ValueError):
    """A report that cannot be written; the message says why, and what to do."""


def check(files: Iterable[Path], pictures: Path | None = None) -> None:
    """Look whether files and pictures can be made here, before anything takes time. Raises NotWritten."""
    for file in files:
        if file.suffix.lower() not in NEEDS:
            raise NotWritten(
                f"{str(file)!r}: expected a name that ends in {', '.join(NEEDS)}, got {file.suffix or 'no ending'!r}"
            )
        _find(NEEDS[file.suffix.lower()], str(file))
    if pictures is not None:
        _find(DRAWN, str(pictures))


def _find(packages: Iterable[str], name: str) -> None:
    missing = [package.replace("_", "-") for package in packages if find_spec(package) is None]
    if missing:
        raise NotWritten(f"{name!r} takes {' and '.join(missing)}, not installed here: pip install 'plumbline[report]'")


def write(evidence: Evidence, files: Sequence[Path], title: str = TITLE) -> list[str]:
    """Write a report in each form that is asked for, over what was there. Returns what was written, in words.

    Raises NotWritten where a file cannot be written.
    """
    makers: dict[str, Callable[[], bytes]] = {
        ".html": lambda: _page(evidence, title),
        ".md": lambda: tables.markdown(evidence, title).encode(),
        ".csv": lambda: tables.csv(evidence.rows),
        ".parquet": lambda: tables.parquet(evidence.rows),
    }
    said = []
    for file in files:
        data = makers[file.suffix.lower()]()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        except OSError as error:
            raise NotWritten(f"{str(file)!r} cannot be written: {error.strerror}; name another file") from error
        said.append(f"{file}: {size(len(data))}, {number_of(len(evidence.rows), 'cell')}")
    return said


def show(page: Path) -> str:
    """Show a page in the browser. Returns nothing, or where no browser was found the address that one is to open."""
    import webbrowser

    address = page.resolve().as_uri()
    return "" if webbrowser.open(address) else f"no browser was found here; open {address}"


def write_pictures(evidence: Evidence, folder: Path, formats: Sequence[str]) -> str:
    """Write all pictures in each format. Returns what was written, in words. Raises NotWritten where one cannot be."""
    from plumbline.harness.views.report.pictures import pictures

    drawn = pictures(evidence)
    try:
        files = static.write(drawn, evidence.shown, folder, formats)
    except OSError as error:
        raise NotWritten(f"{str(folder)!r} cannot hold pictures: {error.strerror}; name another folder") from error
    written = sum(file.stat().st_size for file in files)
    return f"{folder}: {number_of(len(drawn), 'picture')} as {' and '.join(formats)}, {size(written)}"


def _page(evidence: Evidence, title: str) -> bytes:
    from plumbline.harness.views.report.page import page
    from plumbline.harness.views.report.pictures import pictures

    return page(evidence, pictures(evidence), title).encode()
