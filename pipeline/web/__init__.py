"""`tintype serve`: a page and an API that search an archive's index builds, for people who would rather look than read.

No path and no address from a request reaches a file or the network: see `service` and `guard`.
"""
