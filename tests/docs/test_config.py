"""docs/config.md is what the settings classes say, and says something of each setting."""

from dataclasses import fields

import pytest

from docs import make_config
from pipeline import config
from pipeline.search import Query

CLASSES = [*config.setting_classes(), Query]


def test_the_page_is_up_to_date() -> None:
    assert make_config.PAGE.read_text(encoding="utf-8") == make_config.page(), "run python docs/make_config.py"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_setting_is_documented(cls: type) -> None:
    said = make_config.properties(cls)
    assert said.keys() == {field.name for field in fields(cls)}
    assert [name for name, about in said.items() if not about.get("description")] == []
