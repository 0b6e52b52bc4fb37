"""`python -m masklet.cli` is the same as `masklet`."""

from masklet.cli import main

main()
