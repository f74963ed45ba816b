"""From a video file to the pixels of a view; knows no model."""
