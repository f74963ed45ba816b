"""From dark frames to enhanced frames."""
