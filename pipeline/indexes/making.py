"""Indexes made: trained on a sample, filled block by block by whoever has time, merged list by list.

What a block holds depends on nothing but its rows, and blocks are merged in their order: so an index is the same
however many workers made it. A block is encoded with one thread, since sums of products that several threads share out
may round otherwise.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import faiss

# More take longer, and the index finds no more (benchmarks/indexes.py).
TRAIN_ITERATIONS = 5
CODE_ITERATIONS, CODE_SAMPLE = 8, 128  # for product quantizers; vectors for each of the 256 values of a byte
SEED = 0
ADDED = 1 << 14  # vectors at a time: what is computed between has a row for each list


class UnknownKind(Exception):
    """A kind that is neither one of ours nor a FAISS factory string."""


def empty(factory: str, dim: int) -> "faiss.Index":
    """An index of this FAISS factory string, neither trained nor filled. Raises UnknownKind."""
    import faiss

    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UnknownKind(f"FAISS has no index {factory!r} for {dim} dimensions") from error


def train(factory: str, sample: np.ndarray) -> "faiss.Index":
    """An index trained on unit vectors, float32[n, dim]; on the GPUs, where there are some. Raises UnknownKind."""
    import faiss

    index = empty(factory, sample.shape[1])
    ivf = faiss.try_extract_index_ivf(index)
    if ivf:
        ivf = faiss.downcast_index(ivf)  # else it shows what all kinds of lists have in common alone
        ivf.cp.niter, ivf.cp.seed = TRAIN_ITERATIONS, SEED
        # The sample is as large as it should be already.
        ivf.cp.min_points_per_centroid, ivf.cp.max_points_per_centroid = 1, len(sample)
        if hasattr(ivf, "pq"):
            ivf.pq.cp.niter, ivf.pq.cp.max_points_per_centroid = CODE_ITERATIONS, CODE_SAMPLE
            ivf.pq.cp.min_points_per_centroid = 1
        if hasattr(ivf, "do_polysemous_training"):
            # Codes ordered so that they could be compared bit by bit, which nobody does here: seconds a byte.
            ivf.do_polysemous_training = False
        clustering = on_gpus(faiss.IndexFlatIP(sample.shape[1]))  # held here: the index does not keep it alive
        ivf.clustering_index = clustering
    index.train(sample)
    if ivf:
        ivf.clustering_index = None
    return index


def write(index: "faiss.Index", path: Path) -> None:
    import faiss

    faiss.write_index(index, str(path))


def read(path: Path) -> "faiss.Index":
    import faiss

    return faiss.read_index(str(path))


def encode(trained: Path, row_ids: np.ndarray, vectors: np.ndarray, path: Path) -> None:
    """Write an index of some rows, int64[n] and float32[n, dim], by one that is trained and empty."""
    import faiss

    with one_thread():
        index = faiss.read_index(str(trained))
        coarse = on_gpus(index.quantizer)
        for first in range(0, len(row_ids), ADDED):
            rows = np.ascontiguousarray(vectors[first : first + ADDED])
            _, lists = coarse.search(rows, 1)
            ids = np.ascontiguousarray(row_ids[first : first + ADDED])
            index.add_core(
                len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(ids), faiss.swig_ptr(np.ascontiguousarray(lists[:, 0]))
            )
    write(index, path)


def on_gpus(index: "faiss.Index") -> "faiss.Index":
    """A copy of an exact index on all GPUs; itself where there are none."""
    import faiss

    return faiss.index_cpu_to_all_gpus(index) if faiss.get_num_gpus() else index


@contextmanager
def one_thread() -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def merge(trained: Path, blocks: Sequence[Path], path: Path) -> int:
    """Write one index of the blocks, each list of it theirs in their order; its rows.

    A list at a time: neither the blocks nor what they come to is ever in memory. What is written is byte for byte what
    FAISS writes for the same index made in one piece (the tests compare), so that FAISS reads it, and maps it.
    """
    import faiss

    index = faiss.read_index(str(trained))
    parts = [faiss.read_index(str(block), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY) for block in blocks]
    held = [faiss.downcast_InvertedLists(part.invlists) for part in parts]
    sizes = np.array([[lists.list_size(i) for i in range(index.nlist)] for lists in held], np.uint64)
    sizes = sizes.reshape(len(held), index.nlist)  # also where there are no blocks
    index.ntotal = sum(part.ntotal for part in parts)
    head, lists_at = faiss.serialize_index(index).tobytes(), _empty_lists(index)
    assert head.endswith(lists_at), "FAISS writes inverted lists otherwise than it did"
    with path.open("wb") as file:
        file.write(head.removesuffix(lists_at))
        file.write(_table(index, sizes.sum(axis=0, dtype=np.uint64)))
        for i in range(index.nlist):
            there = [lists for lists, size in zip(held, sizes[:, i], strict=True) if size]
            for codes in (True, False):
                for lists in there:
                    _copy(lists, i, codes, file)
    return index.ntotal


def _table(index: "faiss.Index", sizes: np.ndarray) -> bytes:
    """The beginning of FAISS' inverted lists on disk: their number, bytes a code, and sizes.

    Sizes are told of all, or, where most are empty, of those that are not.
    """
    shape = np.array([index.nlist, index.code_size], np.uint64).tobytes()
    filled = np.flatnonzero(sizes).astype(np.uint64)
    if len(filled) > index.nlist // 2:
        kind, told = b"full", sizes
    else:
        kind, told = b"sprs", np.stack([filled, sizes[filled]], axis=1).ravel()
    return b"ilar" + shape + kind + np.array([len(told)], np.uint64).tobytes() + told.astype(np.uint64).tobytes()


def _empty_lists(index: "faiss.Index") -> bytes:
    return _table(index, np.zeros(index.nlist, np.uint64))


def _copy(lists: "faiss.InvertedLists", i: int, codes: bool, file: object) -> None:
    import faiss

    size = lists.list_size(i)
    if codes:
        data = faiss.rev_swig_ptr(lists.get_codes(i), size * lists.code_size)
    else:
        data = faiss.rev_swig_ptr(lists.get_ids(i), size)
    file.write(data.tobytes())  # type: ignore[attr-defined]


def identified(index: "faiss.Index") -> "faiss.Index":
    """The index, with row ids where FAISS would count."""
    import faiss

    return faiss.IndexIDMap(index)


def emptied(path: Path) -> "faiss.Index":
    """What an index with lists was before it was filled: its training."""
    import faiss

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)  # no list is touched
    lists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    lists.this.disown()  # the index deletes them
    index.replace_invlists(lists, True)
    index.ntotal = 0
    return index


@contextmanager
def rows_file(folder: Path, most: int, dim: int) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Write vectors.npy, float16[n, dim], and row_ids.npy, int64[n], piece by piece as they are handed over."""
    ids: list[np.ndarray] = []
    path = folder / "vectors.npy"
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": (most, dim)})
        begins = file.tell()

        def keep(row_ids: np.ndarray, stored: np.ndarray) -> None:
            ids.append(row_ids)
            file.write(np.ascontiguousarray(stored, "<f2").data)

        yield keep
        rows = sum(map(len, ids))
        file.seek(0)  # of some rows there may have been no vector
        np.lib.format.write_array_header_1_0(file, header | {"shape": (rows, dim)})
        assert file.tell() == begins, "a header with a smaller number takes as many bytes"
    np.save(folder / "row_ids.npy", np.concatenate(ids or [np.empty(0, np.int64)]))


def plain(vectors: Iterable[np.ndarray], dim: int) -> "faiss.Index":
    """An exact index as other programs expect it: of float32[n, dim] blocks, numbered from 0 in their order."""
    import faiss

    index = faiss.IndexFlatIP(dim)
    for rows in vectors:
        index.add(rows)
    return index
