"""Everything the stages are made of, floor by floor."""
