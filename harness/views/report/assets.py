"""What others wrote and a page holds: the scripts of Vega-Embed and DataTables, out of installed packages."""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from plumbline.files import cache_folder

_EXPORTED = re.compile(r"export\{[^{}]*?([\w$]+) as default[^{}]*\}")


def vega() -> str:
    """Return the script that draws charts: vega, vega-lite and vega-embed, bundled once by vl-convert and kept in the cache."""
    file = cache_folder() / "report" / f"vega-{version('vl-convert-python')}.js"
    if not file.exists():
        import vl_convert

        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        bundle = vl_convert.javascript_bundle(snippet=None)  # type: ignore[arg-type]  # whose stub wants a text
        part.write_text(bundle, encoding="utf-8")
        part.replace(file)
    return file.read_text(encoding="utf-8")


def datatables() -> tuple[str, str]:
    """Return the script of DataTables, as itables brings it, which leaves a `DataTable` to what follows it, and its style."""
    found_at = find_spec("itables")
    assert found_at is not None and found_at.origin is not None, "who calls this has looked for it"
    folder = Path(found_at.origin).parent / "html"  # without importing it, and pandas with it: half a second
    script = (folder / "dt_bundle.js").read_text(encoding="utf-8")
    found = list(_EXPORTED.finditer(script))
    if len(found) != 1:
        raise RuntimeError(
            f"expected one default export in the bundle of itables {version('itables')}, got {len(found)}; adapt assets.py"
        )
    name, (start, end) = found[0][1], found[0].span()
    return script[:start] + f"const DataTable = {name}" + script[end:], (folder / "dt_bundle.css").read_text(encoding="utf-8")
