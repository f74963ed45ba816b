"""Whether this machine and this folder are fit for the pipeline."""
