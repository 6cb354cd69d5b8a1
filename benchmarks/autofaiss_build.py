"""autofaiss' own `build_index`, and what its index finds; indexes.py runs it in autofaiss' environment.

    python autofaiss_build.py VECTORS_FOLDER QUERIES.npz INDEX MEGABYTES CORES

VECTORS_FOLDER holds float32 .npy files; QUERIES.npz holds sets of queries float32[n, dim] by name, and under
`<name>_truth` the row numbers int64[n, 10] of the nearest. It prints a JSON object: the key that it chose, seconds of
the build, bytes on disk and held, and of each set recall@10 and milliseconds a query, asked one by one.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import autofaiss
import faiss
import numpy as np

K = 10
INDEX_SHARE = 0.89  # of its memory: it refuses an index that leaves less than a tenth


def main(vectors: str, queries_path: str, index_path: str, megabytes: str, cores: str) -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # it prints
    started = time.perf_counter()
    _, said = autofaiss.build_index(
        vectors,
        index_path=index_path,
        index_infos_path=index_path + ".json",
        metric_type="ip",
        max_index_memory_usage=f"{int(INDEX_SHARE * int(megabytes))}M",
        current_memory_available=f"{megabytes}M",
        nb_cores=int(cores),
    )
    answer = {
        "seconds": time.perf_counter() - started,
        "held": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    assert said, "autofaiss refuses, and has logged why"
    answer |= {"key": said["index_key"], "parameters": said["index_param"], "bytes": Path(index_path).stat().st_size}
    index = faiss.read_index(index_path)
    sets = np.load(queries_path)
    for name in [name for name in sets if not name.endswith("_truth")]:
        answer[name] = ask(index, sets[name], sets[f"{name}_truth"])
    os.write(out, json.dumps(answer).encode() + b"\n")


def ask(index: faiss.Index, queries: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    index.search(queries[:10], K)
    took, right = [], 0
    for query, rows in zip(queries, truth, strict=True):
        begun = time.perf_counter()
        _, found = index.search(query[None], K)
        took.append(1000 * (time.perf_counter() - begun))
        right += len(np.intersect1d(found, rows))
    p50, p99 = np.percentile(took, [50, 99])
    return {"recall@10": right / (K * len(queries)), "p50_ms": p50, "p99_ms": p99}


if __name__ == "__main__":
    main(*sys.argv[1:])
