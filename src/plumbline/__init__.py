"""What is installed: `plumbline.harness` and `plumbline.models` are the folders harness/ and models/ of the repository."""

from __future__ import annotations


class PlumblineError(Exception):
    """What was asked for cannot be, or what is needed is not here: what was expected, what came, what to do.

    The base of all errors that are told in a sentence; a command prints it and ends with code 2, without a traceback.
    """


class NotHere(PlumblineError, LookupError):
    """Data, weights, a training or a device that this machine does not have; the message says how to get it."""


class Unfit(PlumblineError, ValueError):
    """What was asked of a net cannot be done to it; the message names what was asked, and says what would work."""


class UnknownName(PlumblineError, LookupError):
    """A name that no registry has; the message lists those it has."""
