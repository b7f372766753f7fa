"""python -m convwise."""

from convwise.cli.app import main

main()
