"""One module a DVC stage, and nothing else."""
