"""`plumbline trust`: shows the key of a host that is to be measured on, and asks whether it is the right one."""

from __future__ import annotations

import argparse
import sys

from plumbline.harness.views.terminal import Progress


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("host", help="as in --target ssh:HOST")
    words = "take the key without asking if it has this fingerprint, which the device itself has shown"
    parser.add_argument("--fingerprint", metavar="SHA256:...", help=words)


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 1 where the key was not taken."""
    from plumbline.harness.session import trust

    found = trust.look(arguments.host)
    if found.known:
        print(f"{arguments.host}: its key is known already ({found.fingerprint})")
        return 0
    print(f"{arguments.host} ({found.address}) shows this key:\n  {found.fingerprint}")
    if arguments.fingerprint is not None:
        taken = arguments.fingerprint == found.fingerprint.split()[1]
        if not taken:
            print(f"expected {arguments.fingerprint}; not taken", file=sys.stderr)
    else:
        print("On the device, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints the same, if it is that device.")
        taken = sys.stdin.isatty() and input("Is it the right one? [yes/no] ").strip().lower() == "yes"
        if not taken:
            print("not taken", file=sys.stderr)
    if taken:
        found.keep()
        print(f"kept in {found.file}")
    return 0 if taken else 1
