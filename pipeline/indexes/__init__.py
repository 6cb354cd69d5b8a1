"""FAISS: unit vectors in, row ids out. The only folder that imports it.

An index is a folder with `index.faiss`, over inner products of unit vectors, in which FAISS stores row ids. Where
that holds codes or a graph, and no vectors to be exact with, `vectors.npy` (float16) and `row_ids.npy` lie beside it.
All of it is memory-mapped: a search reads what it needs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pipeline.indexes import exact

if TYPE_CHECKING:  # it takes 190 MB, which those who only fetch can do without
    import faiss

Effort: TypeAlias = dict[str, int]  # nprobe or efSearch, and rerank: candidates a hit, compared exactly

FLAT, IVF_FLAT, IVF_PQ = "flat", "ivf_flat", "ivf_pq"  # every other kind is a FAISS factory string
EXACT_ROWS = 100_000  # of a filter, up to which it is searched exactly: a few ms


class Damaged(Exception):
    """A file that is not, or no longer, a whole index."""


@dataclass
class Index:
    """An index, opened. `vectors`, [n, dim], are those of `row_ids`, int64[n], ascending; None: the lists hold them."""

    kind: str
    faiss: "faiss.Index"
    row_ids: np.ndarray | None = None
    vectors: np.ndarray | None = None
    effort: Effort = field(default_factory=dict)

    def __len__(self) -> int:
        return self.faiss.ntotal


def open_index(folder: Path, kind: str, effort: Effort | None = None) -> Index:
    """Open an index of this kind. Raises Damaged for files that are missing, cut short or something else."""
    import faiss

    path = folder / "index.faiss"
    lists = kind in (IVF_FLAT, IVF_PQ)
    try:
        mapped = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if lists else faiss.IO_FLAG_MMAP_IFC
        index = faiss.read_index(str(path), mapped)
        if lists:
            # Threads that read ahead take longer to start than the lists of one query take to search.
            faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists).prefetch_nthread = 0
            row_ids = vectors = None
        else:
            row_ids = faiss.vector_to_array(index.id_map)
            vectors = _flat_vectors(index) if kind == FLAT else None
        if kind not in (FLAT, IVF_FLAT):
            row_ids, vectors = (np.load(folder / name, mmap_mode="r") for name in ("row_ids.npy", "vectors.npy"))
            if len(row_ids) != len(vectors) or len(row_ids) != index.ntotal:
                raise ValueError("numbers of rows differ")
    except (RuntimeError, AttributeError, OSError, ValueError, EOFError) as error:
        # FAISS has no other exception than RuntimeError; its text names C++ lines, not the cause.
        raise Damaged(f"{path} is not a readable index") from error
    opened = Index(kind, index, row_ids, vectors)
    set_effort(opened, effort or {})
    return opened


def _flat_vectors(index: "faiss.Index") -> np.ndarray:
    """The matrix of an exact index where it lies, float32[n, dim]; it lives as long as the index does."""
    import faiss

    flat = faiss.downcast_index(index.index)
    if not flat.ntotal:
        return np.empty((0, flat.d), np.float32)
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)


def set_effort(index: Index, effort: Effort) -> None:
    """Have later searches take this effort: see `ladder`."""
    import faiss

    index.effort = effort
    custom = index.kind not in (FLAT, IVF_FLAT, IVF_PQ)  # to search those of ours it is told each time, if at all
    for name in effort.keys() - {"rerank"} if custom else ():
        faiss.ParameterSpace().set_index_parameter(index.faiss, name, effort[name])


def search(
    index: Index,
    queries: np.ndarray,
    k: int,
    *,
    among: np.ndarray | None = None,
    without: Iterable[int] | np.ndarray = (),
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query: (cosines float32[n, k], row ids int64[n, k]), best first, equals by row id.

    `queries`: unit vectors, float32[n, dim]. `among`: row ids to search within, all where None: a small set is searched
    exactly, a large one with effort raised until the answer stands. `without`: row ids not to answer. Where fewer than
    k are found, the row ids end in -1.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    # numpy's set functions hash, and row ids, each part's a little more than a multiple of 2^20, collide: 0.7 s for
    # half a million. So they are sorted, and compared.
    excluded = np.sort(without if isinstance(without, np.ndarray) else np.fromiter(without, np.int64))
    if among is not None:
        among = np.sort(among)
        among = among[~np.isin(among, excluded, kind="sort")] if len(excluded) else among
    lists = index.kind in (IVF_FLAT, IVF_PQ)
    if among is None and index.kind == FLAT:
        assert index.vectors is not None and index.row_ids is not None
        return exact.search(index.vectors, index.row_ids, queries, k, excluded)
    if among is not None and (len(among) <= EXACT_ROWS or not lists):
        if index.vectors is not None:
            assert index.row_ids is not None
            return exact.gathered(index.vectors, index.row_ids, queries, k, among)
        return _listed(index, queries, k, _nlist(index), _selector(among, excluded))
    if not lists:
        return _graph(index, queries, k, excluded)
    if among is None:
        return _listed(index, queries, k, index.effort["nprobe"], _selector(None, excluded))
    return _rising(index, queries, k, among)


def _rising(index: Index, queries: np.ndarray, k: int, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search lists for what a filter keeps, with effort doubled until the answer is whole and stands still.

    Begun with as many lists as hold as many rows of the filter as a search without one would see; with no fewer where
    most of those rows are in another index.
    """
    selector = _selector(among, np.empty(0, np.int64))
    nlist = _nlist(index)
    nprobe = index.effort["nprobe"]
    nprobe = min(nlist, max(nprobe, -(-nprobe * len(index) // len(among))))
    scores, found = _listed(index, queries, k, nprobe, selector)
    while nprobe < nlist:
        before, nprobe = found, min(nlist, 2 * nprobe)
        scores, found = _listed(index, queries, k, nprobe, selector)
        if np.array_equal(before, found) and (found >= 0).all():
            break
    return scores, found


def _listed(
    index: Index, queries: np.ndarray, k: int, nprobe: int, selector: "faiss.IDSelector | None"
) -> tuple[np.ndarray, np.ndarray]:
    """Search `nprobe` inverted lists; codes are compared again by their vectors."""
    import faiss

    params = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
    candidates = min(k * index.effort.get("rerank", 1), len(index)) if index.vectors is not None else k
    scores, found = index.faiss.search(queries, max(k, candidates), params=params)
    return _compared(index, queries, k, scores, found)


def _graph(index: Index, queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search an index of any kind, which may not know how to leave rows out."""
    least = k * index.effort.get("rerank", 1)
    candidates = least
    while True:
        scores, found = index.faiss.search(queries, max(k, min(candidates, len(index))))
        found = np.where(np.isin(found, excluded), -1, found)
        if not len(excluded) or candidates >= len(index) or (found >= 0).sum(axis=1).min(initial=least) >= least:
            return _compared(index, queries, k, scores, found)
        candidates *= 2  # of those that were found too many are left out


def _compared(
    index: Index, queries: np.ndarray, k: int, scores: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of candidates: by their vectors where those are at hand, else by the scores they come with."""
    if index.vectors is not None:
        assert index.row_ids is not None
        scores = np.full(found.shape, -np.inf, np.float32)
        for query, candidates, row in zip(queries, found, scores, strict=True):
            there = candidates >= 0
            row[there] = exact.unit(index.vectors[np.searchsorted(index.row_ids, candidates[there])]) @ query
    return exact.best(np.where(found >= 0, scores, -np.inf), found, k)


def _selector(among: np.ndarray | None, excluded: np.ndarray) -> "faiss.IDSelector | None":
    """What FAISS asks of each row: a bit for each possible row id, of which few pages are ever touched."""
    import faiss

    if among is not None:
        return faiss.IDSelectorBitmap(_bits(among))
    return faiss.IDSelectorNot(faiss.IDSelectorBitmap(_bits(excluded))) if len(excluded) else None


def _bits(row_ids: np.ndarray) -> np.ndarray:
    """A bit for each possible row id, set for these, int64[n], ascending."""
    bits = np.zeros(int(row_ids.max(initial=0)) // 8 + 1, np.uint8)
    byte = row_ids >> 3
    first = np.flatnonzero(np.diff(byte, prepend=-1))
    if len(first):
        bits[byte[first]] = np.bitwise_or.reduceat(np.left_shift(1, row_ids & 7).astype(np.uint8), first)
    return bits


def _nlist(index: Index) -> int:
    import faiss

    return faiss.extract_index_ivf(index.faiss).nlist


def ladder(index: Index) -> Iterable[Effort]:
    """Efforts to search with, from little to all that helps. An exact index has one: none."""
    import faiss

    if index.kind == FLAT:
        yield {}
        return
    ivf = faiss.try_extract_index_ivf(index.faiss)
    graph = "HNSW" in index.kind
    name, least, top = ("nprobe", 1, ivf.nlist) if ivf else ("efSearch", 16, 4096)
    doubled = [least * 2**step for step in range(int(np.log2(top / least)) + 1)]
    steps = [*doubled, *([top] if doubled[-1] < top else [])] if ivf or graph else [0]
    reranks = (1,) if index.kind == IVF_FLAT or (graph and not ivf) else (10, 40)
    for rerank in reranks:
        for step in steps:
            yield {"rerank": rerank} | ({name: step} if step else {})


def vector(index: Index, row_id: int) -> np.ndarray:
    """The stored unit vector, float32[dim], of an index that holds vectors. Raises KeyError for a row id not in it."""
    assert index.row_ids is not None and index.vectors is not None
    place = np.searchsorted(index.row_ids, row_id)
    if place == len(index.row_ids) or index.row_ids[place] != row_id:
        raise KeyError(row_id)
    return exact.unit(np.asarray(index.vectors[place : place + 1]))[0]


def held(index: Index, row_ids: np.ndarray) -> int:
    """How many of these rows, int64[n], the index holds."""
    return int(exact.placed(all_row_ids(index), row_ids)[1].sum()) if len(row_ids) else 0


def all_row_ids(index: Index) -> np.ndarray:
    """The row ids of an index, int64[n], ascending."""
    import faiss

    if index.row_ids is not None:
        return np.asarray(index.row_ids)
    lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index.faiss).invlists)
    ids = [faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)) for i in range(lists.nlist) if lists.list_size(i)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *ids]))


def about(index: Index) -> dict[str, Any]:
    """What a card says of an index."""
    import faiss

    ivf = faiss.try_extract_index_ivf(index.faiss)
    return {"kind": index.kind, "nlist": ivf.nlist if ivf else None, "effort": index.effort}
