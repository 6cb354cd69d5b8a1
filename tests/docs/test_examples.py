"""The sources that the runbook shows are ones that load."""

import re
from pathlib import Path

import yaml

from pipeline import config
from pipeline.sources.flickr import FlickrSource

RUNBOOK = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")


def test_the_ways_to_name_photos_load_and_are_all_shown() -> None:
    blocks = re.findall(r"^```yaml\n(sources:\n.*?)^```$", RUNBOOK, re.DOTALL | re.MULTILINE)
    shown = [source for block in blocks for source in config.parse({"archive": "./a", **yaml.safe_load(block)}).sources]
    sources = [source for source in shown if isinstance(source, FlickrSource)]
    assert {source.kind for source in shown} == {"flickr", "unsplash"}
    assert len({source.name for source in sources}) == len(sources)
    for way in ("user", "url", "search", "list"):
        assert any(getattr(source, way) for source in sources), way
