"""python -m convwise."""

from convwise.cli.app import command

command()
