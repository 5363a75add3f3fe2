"""The options of every command and of pytest, as argparse itself has them: directives `commands` and `pytest-options`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

MARKUP = re.compile(r"([\\*_<\[])")  # of Markdown; help has `code` in backticks, as Markdown has


class Options:
    """Stands in for pytest's parser, of which a plugin asks groups and options alone."""

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser(prog="pytest", add_help=False)

    def getgroup(self, name: str, description: str = "") -> Any:
        """Return a group that takes options as pytest's does."""
        group: Any = self.parser.add_argument_group(name, description)
        group.addoption = group.add_argument
        return group


def described(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Write what a parser takes, in Markdown: an entry an option or argument, with its help."""
    yield from (f"```{{program}} {parser.prog}", "```", "")
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        usual = (
            formatter._get_default_metavar_for_optional
            if action.option_strings
            else formatter._get_default_metavar_for_positional
        )
        takes = formatter._format_args(action, usual(action))
        names = [f"{name} {takes}".strip() for name in action.option_strings] or [takes]
        words = formatter._expand_help(action) if action.help else ""
        yield from (f"```{{option}} {', '.join(names)}", MARKUP.sub(r"\\\1", words), "```", "")


class _Written(SphinxDirective):
    """A directive whose content is written here."""

    def lines(self) -> Iterator[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse it."""
        section = nodes.section()
        section.document = self.state.document
        nested_parse_with_titles(self.state, StringList(list(self.lines()), source=self.name), section)
        return section.children


class Commands(_Written):
    """Every command with its help, in the order of `plumbline --help`."""

    def lines(self) -> Iterator[str]:
        from plumbline.harness.cli import parsers

        for name, parser in parsers()[1].items():
            words = MARKUP.sub(r"\\\1", parser.description or name)
            usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
            yield from (f"## plumbline {name}", "", f"{words[0].upper()}{words[1:]}.", "")
            yield from ("```{code-block} text", ":class: usage", usage, "```", "")
            yield from described(parser)


class PytestOptions(_Written):
    """The options that the plugin adds to pytest's."""

    def lines(self) -> Iterator[str]:
        from plumbline.harness.plugin.options import pytest_addoption

        options: Any = Options()
        pytest_addoption(options)
        return described(options.parser)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("commands", Commands)
    app.add_directive("pytest-options", PytestOptions)
    return {"parallel_read_safe": True}
