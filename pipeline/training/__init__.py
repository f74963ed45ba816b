"""The training loop, checkpoints, metrics and work folders."""
