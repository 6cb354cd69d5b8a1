"""An archive that a real run made, and what damages one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.archive import RECEIPT, Archive
from pipeline.demo.server import KEY, SECRET, Served


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def archive(undisturbed: Path, tmp_path: Path) -> Archive:
    """A copy of what a run made, to be damaged."""
    shutil.copytree(undisturbed, tmp_path / "archive")
    return Archive.open(str(tmp_path / "archive"))


@pytest.fixture
def conf(archive: Archive, tmp_path: Path, server: Served, model: Path) -> str:
    """The configuration that made it."""
    tiny = {"model": f"local-dir:{model}", "precision": "fp32"}
    settings = {
        "archive": archive.url,
        "sources": [{"kind": "flickr", "user": "tintype_demo", "api_url": server.api_url, "api_rate": 100}],
        "images": {"min_side": 60, "rate": None, "backoff": 0.01, "attempts": 2},
        "embeddings": {"tiny": tiny},
        "captions": {"tiny": tiny | {"generation": "greedy"}},
        "run": {"runner": "local", "part_size": 20, "max_failed": 1.0},
    }
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(settings))
    return str(tmp_path / "conf.yaml")


def rewrite(
    archive: Archive, name: str, part: int, change: Callable[[pa.Table], pa.Table] = lambda rows: rows, **receipt: Any
) -> None:
    """Put a part in place of the one there: its rows changed, and its receipt, whose write id stays."""
    table = archive.table(name)
    rows, told = change(table.read(part).replace_schema_metadata(None)), table.receipt(part) | receipt
    with pq.ParquetWriter(table.part_url(part), rows.schema, write_page_checksum=True) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({RECEIPT: json.dumps(told)})


def with_row(rows: pa.Table, row: int, **values: Any) -> pa.Table:
    """Rows with other values in one of them."""
    told = rows.to_pylist()
    told[row] |= values
    return pa.Table.from_pylist(told, rows.schema)
