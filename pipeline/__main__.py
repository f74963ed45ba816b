"""`python -m pipeline` is `dlkdd`."""

from pipeline.cli import main

main()
