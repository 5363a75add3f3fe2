"""The site: `sphinx-build -W --keep-going -b html docs docs/_build`. Nothing is fetched, here or by a reader's browser."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "plumbline"
copyright = "the contributors; Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "extensions.commands", "extensions.docstrings", "extensions.links"]
exclude_patterns = ["_build", "extensions"]

html_theme = "furo"
html_title = "plumbline"
html_static_path = ["_static"]
html_css_files = ["site.css"]
smartquotes = False  # "--option" stays as it is
html_copy_source = html_show_sphinx = False

myst_heading_anchors = 3  # as GitHub names them
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 100  # a field of a struct a line
add_module_names = False
