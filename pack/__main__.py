"""`python -m pack`."""

from pack.cli import main

main()
