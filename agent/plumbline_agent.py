#!/usr/bin/env python3
"""The agent of boards whose Python is too old for a probe: one file, the standard library alone, Python 3.6.

It answers --version, and nothing else yet.
"""

import argparse

VERSION = "0"


def main():
    """Answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", action="version", version="plumbline-agent " + VERSION)
    parser.parse_args()
    parser.error("expected --version; this agent can do nothing else yet")


if __name__ == "__main__":
    main()
