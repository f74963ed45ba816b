"""Self-contained HTML pages: what a dataset is like, how a run turned out."""
