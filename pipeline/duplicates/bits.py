"""Hashes that lie within a few bits of each other, found without comparing all with all."""

import numpy as np

BITS = 64
TILE = 1 << 19  # pairs compared at a time: 4 MB of them stay in a processor's cache


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Bits in which hashes uint64[n] and uint64[m] differ: uint8[n, m]."""
    return np.bitwise_count(left[:, None] ^ right[None])


def components(hashes: np.ndarray, within: int) -> np.ndarray:
    """Which hashes hang together by steps of at most `within` bits: the first of its component for each, int64[n].

    Of two such neighbours, one of `within + 1` bands of their bits is equal (pigeonholes), so only hashes that share a
    band are compared. Pairs are joined as they are found, and never kept: memory is some bytes a hash, however many are
    alike.
    """
    different, first, of = np.unique(hashes, return_index=True, return_inverse=True)
    parent = np.arange(len(different))
    for band in range(within + 1):
        # Every (within + 1)-th bit, since frequencies beside each other go together, and bands should not.
        mask = sum(1 << bit for bit in range(band, BITS, within + 1))
        keys = different & np.uint64(mask)
        order = np.argsort(keys, kind="stable")
        ends = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(order, ends):
            if len(bucket) > 1:
                _join_bucket(parent, different, bucket, within)
    # A component is called by its first hash in the order given, not in that of the numbers.
    least = np.full(len(different), len(hashes))
    root = _roots(parent, np.arange(len(different)))
    np.minimum.at(least, root, first)
    return least[root[of]]


def _join_bucket(parent: np.ndarray, hashes: np.ndarray, bucket: np.ndarray, within: int) -> None:
    """Join the neighbours among `hashes[bucket]`, a tile of pairs at a time."""
    height = max(1, TILE // len(bucket))
    for top in range(0, len(bucket), height):
        rows, columns = bucket[top : top + height], bucket[top + 1 :]
        roots, others = _roots(parent, rows), _roots(parent, columns)
        if (roots == roots[0]).all() and (others == roots[0]).all():  # as in a crowd that is joined already
            continue
        near = distances(hashes[rows], hashes[columns]) <= within
        if near.any():
            near &= roots[:, None] != others[None]
            left, right = np.nonzero(near)
            _join(parent, rows[left], columns[right])


def _join(parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    while len(left):
        left, right = _roots(parent, left), _roots(parent, right)
        apart = left != right
        left, right = np.minimum(left[apart], right[apart]), np.maximum(left[apart], right[apart])
        np.minimum.at(parent, right, left)


def _roots(parent: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The roots of some members, whose way to them is then one step."""
    root = parent[members]
    while not np.array_equal(above := parent[root], root):
        root = above
    parent[members] = root
    return root
