"""Tintype: from a photo archive to a captioned, searchable Parquet dataset."""

import os

# Before torch or FAISS is imported, because the OpenMP library reads it once. By default its threads spin for
# milliseconds at the end of each of the thousands of products of a caption. Where another process wants a core too, the
# one that spins keeps the core from the one that is waited for: one busy neighbour made captions 30 times slower.
# Spinning a fifth as long, they went to sleep between products, from which a virtual machine wakes late: captions took
# a third longer.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
