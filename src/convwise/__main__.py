"""python -m convwise."""

from convwise.cli import main

main()
