"""Which kind is chosen at which size, and what it is said to take."""

import math

import pytest

from pipeline.indexes import kinds, making
from pipeline.indexes.kinds import FEWEST, ROW_ID, choose

SPEED = 10e9  # bytes a second
PLENTY = 10**15


def chosen(rows: int, dim: int = 512, memory: int = PLENTY, latency_ms: float = 20.0) -> str:
    return choose("auto", rows, dim, memory, latency_ms, SPEED)[0].kind


def test_few_rows_are_searched_exactly_whatever_is_asked() -> None:
    assert chosen(FEWEST - 1, memory=1, latency_ms=1e-9) == "flat"
    assert chosen(FEWEST, latency_ms=1e-9) == "ivf_flat"
    assert chosen(0) == chosen(1) == "flat"


def test_latency_ends_exact_search() -> None:
    rows = int(20e-3 * SPEED / (4 * 512))  # that take 20 ms to read
    assert chosen(rows - 1) == "flat"
    assert chosen(rows + 1) == "ivf_flat"
    assert chosen(rows + 1, latency_ms=21) == "flat"
    choice, why = choose("auto", rows + 1, 512, PLENTY, 20.0, SPEED)
    assert choice.factory == f"IVF{kinds.lists(rows + 1)},Flat"
    assert why == "exact search would take some 20 ms here, over index.latency (20 ms)"


def test_memory_ends_the_vectors_as_they_are() -> None:
    rows = 1_000_000
    flat, ivf, pq = kinds.options(rows, 256, 600_000_000, SPEED)
    assert flat.memory == rows * (4 * 256 + ROW_ID) < ivf.memory
    assert chosen(rows, 256, flat.memory, 1e9) == "flat"
    assert chosen(rows, 256, flat.memory - 1, 1e9) == "ivf_pq"
    assert chosen(rows, 256, ivf.memory, 1.0) == "ivf_flat"
    assert chosen(rows, 256, ivf.memory - 1, 1.0) == "ivf_pq"
    assert pq.memory <= 600_000_000
    choice, why = choose("auto", rows, 256, 1000, 20.0, SPEED)
    assert choice.kind == "ivf_pq" and why.startswith("the smallest there is; it takes")


@pytest.mark.parametrize("dim", [1, 3, 7, 16, 384, 512, 768, 1152])
@pytest.mark.parametrize("rows", [1, 60, 10_000, 1_000_000, 100_000_000])
def test_codes_fit_the_dimensions_and_the_memory(rows: int, dim: int) -> None:
    smallest = kinds.code_bytes(rows, dim, 0)
    for memory in (0, rows * 20, rows * 40, rows * 80, PLENTY):
        size = kinds.code_bytes(rows, dim, memory)
        assert dim % size == 0 and smallest <= size <= max(1, dim // 4)
        taken = rows * (size + ROW_ID) + kinds.lists(rows) * dim * 4
        assert taken <= memory or size == smallest


@pytest.mark.parametrize("rows", [1, 38, 60, 1000, 10_000, 10**6, 10**9])
def test_lists_have_rows_to_be_trained_on(rows: int) -> None:
    lists = kinds.lists(rows)
    assert math.log2(lists).is_integer() and (lists == 1 or rows >= 39 * lists)
    assert lists <= max(1, 2 * kinds.LISTS * math.sqrt(rows))
    assert kinds.training_rows(rows, 256, PLENTY) <= rows
    assert kinds.training_rows(rows, 256, 10**9) * 4 * 256 <= 10**9 // 4 + 4 * 256 * 1024


@pytest.mark.parametrize("rows", [1, 60, 50_000])
def test_faiss_knows_all_that_may_be_chosen(rows: int) -> None:
    for option in kinds.options(rows, 48, 10**6, SPEED):
        assert making.empty(option.factory, 48).d == 48


def test_named_kinds() -> None:
    for kind in kinds.OWN:
        assert choose(kind, 60, 16, 1, 1e-9, SPEED)[0].kind == kind
    hnsw, why = choose("hnsw", 60, 16, PLENTY, 20.0, SPEED)
    assert (hnsw.kind, hnsw.factory, why) == ("HNSW32", "HNSW32", "as configured")
    own, _ = choose("OPQ8_16,IVF32,PQ8", 60, 16, PLENTY, 20.0, SPEED)
    assert own.kind == own.factory == "OPQ8_16,IVF32,PQ8" and math.isnan(own.ms)


def test_the_speed_of_memory_is_measured_once() -> None:
    assert 1e8 < kinds.memory_speed() < 1e13
    assert kinds.memory_speed() == kinds.memory_speed()
