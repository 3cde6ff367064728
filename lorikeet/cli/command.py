"""What a subcommand is, and the two ways in which it may fail by itself."""

import argparse
from typing import Protocol


class Command(Protocol):
    """A module with one command: a line of help, its arguments, and the work.

    It may have SUBCOMMANDS beside: first words, each with the module of another command that takes the rest.
    """

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments; called only when this command was chosen."""

    def run(self, args: argparse.Namespace) -> int:
        """Does the work and returns the exit code."""


class UsageError(Exception):
    """The command line or its configuration file is wrong: exit code 2."""


class CommandError(Exception):
    """The command could not do its work: exit code 1."""
