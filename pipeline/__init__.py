"""Tintype: from a photo archive to a captioned, searchable Parquet dataset."""

__version__ = "0.1.0"
