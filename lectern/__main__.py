"""`python -m lectern` is `lectern`."""

from lectern.cli import main

main()
