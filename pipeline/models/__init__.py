"""Models: pixels in, arrays or text out. Nothing here knows of Parquet, and torch is imported nowhere above."""
