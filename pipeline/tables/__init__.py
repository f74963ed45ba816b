"""Results as tables: of a run, and beside the paper's."""
