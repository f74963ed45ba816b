"""Networks; they know no file layout and no stage."""
