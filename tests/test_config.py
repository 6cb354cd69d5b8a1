"""Configurations: what each of ours holds, overrides, and one clear line for every mistake."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import config
from pipeline.demo import show
from pipeline.demo.scenes import OBJECTS
from pipeline.photo import UserError
from pipeline.search import Query
from pipeline.sources.flickr import FlickrSource
from pipeline.sources.folder import FolderSource
from pipeline.training.settings import TrainSettings

CONF = Path(__file__).parents[1] / "conf"
CONFIGURATIONS = sorted(path for path in CONF.glob("*.yaml") if not path.name.startswith(("queries", "train_")))
TRAININGS = sorted(CONF.glob("train_*.yaml"))
QUERIES = sorted(CONF.glob("queries*.yaml"))

MODEL = {"model": "local-dir:/models/tiny"}
LEAST: dict[str, Any] = {"archive": "./a", "sources": [{"kind": "folder", "path": "./pictures"}]}


def refused(call: Callable[..., Any], *arguments: Any) -> str:
    """The one line that a mistake is told in."""
    with pytest.raises(UserError) as raised:
        call(*arguments)
    line = str(raised.value)
    assert "\n" not in line
    return line


@pytest.fixture
def conf(tmp_path: Path) -> str:
    path = tmp_path / "conf.yaml"
    path.write_text(
        "archive: ./a\nsources: [{kind: flickr, user: somebody}]\nembeddings: {tiny: {model: 'local-dir:m'}}\n"
    )
    return str(path)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_every_configuration_of_ours_loads(path: Path) -> None:
    settings = config.load(str(path))
    assert settings.embeddings
    assert settings.captions


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_every_training_of_ours_loads(path: Path) -> None:
    assert config.validated(TrainSettings, config.given(str(path), ()), str(path)).steps


def test_a_misspelt_setting_of_a_training_is_told_with_the_nearest() -> None:
    told = refused(
        config.validated, TrainSettings, {"out": "a", "model": "b", "data": [{"kind": "scenes"}], "stesp": 3}, "c"
    )
    assert "unknown setting stesp; did you mean 'steps'?" in told


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_every_file_of_queries_of_ours_loads(path: Path) -> None:
    queries = config.load_queries(str(path), 4, "media = 'photo'")
    assert {(query.k, query.where) for query in queries} == {(4, "media = 'photo'")}
    assert queries[3] == Query("mini-golf windmill", None, "yosemite sam", "windmill", 1.5, "media = 'photo'", 4)


def test_the_demo_runs_what_its_configuration_says() -> None:
    written = config.load(str(CONF / "demo.yaml"))
    source = written.sources[0]
    assert isinstance(source, FlickrSource)
    # The one difference: the file names the model's folder as seen from the repository.
    model = written.embeddings["demo"].model.removeprefix("local-dir:")
    assert f"local-dir:{CONF.parent / model}" == show.MODEL["model"]
    given = {
        "embeddings": {"demo": {"model": f"local-dir:{model}"}},
        "captions": {"demo": {"model": f"local-dir:{model}"}},
        "labels": {"things": {"model": f"local-dir:{model}", "classes": OBJECTS, "templates": ["a {}"]}},
    }
    assert show.settings(written.archive, source.api_url, **given) == written


def test_the_least_a_configuration_needs() -> None:
    settings = config.parse(LEAST)
    assert settings.sources == (FolderSource(path="./pictures"),)
    assert settings.run.runner == "ray"
    assert settings.index.of is None


def test_a_source_is_of_the_kind_it_says() -> None:
    line = refused(config.parse, LEAST | {"sources": [{"kind": "fickle", "path": "x"}]})
    assert "sources.0" in line
    assert "'flickr', 'folder'" in line


@pytest.mark.parametrize(
    ("wrong", "named", "nearest"),
    [
        ({"archiv": "./b"}, "archiv", "archive"),
        ({"run": {"runer": "local"}}, "run.runer", "runner"),
        ({"images": {"min_sides": 3}}, "images.min_sides", "min_side"),
        ({"embeddings": {"a": MODEL | {"pretrain": "x"}}}, "embeddings.a.pretrain", "pretrained"),
        ({"sources": [{"kind": "flickr", "usr": "x", "user": "y"}]}, "sources.0.flickr.usr", "user"),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(wrong: dict[str, Any], named: str, nearest: str) -> None:
    assert f"unknown setting {named}; did you mean {nearest!r}?" in refused(config.parse, LEAST | wrong)


def test_an_unknown_setting_like_no_other_suggests_none() -> None:
    assert refused(config.parse, LEAST | {"qqq": 1}).endswith("unknown setting qqq")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"archive": 5}, "archive"),
        ({"sources": []}, "sources"),
        ({"run": {"runner": "slurm"}}, "run.runner"),
        ({"run": {"part_size": 0}}, "run.part_size"),
        ({"run": {"max_failed": "120%"}}, "run.max_failed"),
        ({"run": {"max_failed": "few%"}}, "run.max_failed"),
        ({"images": {"rate": "fast"}}, "images.rate"),
        ({"images": {"min_side": 0}}, "images"),
        ({"embeddings": {"a": {}}}, "embeddings.a.model"),
        ({"labels": {"a": MODEL}}, "labels.a.classes"),
        ({"labels": {"a": MODEL | {"classes": ["b", "c"], "top": 0}}}, "labels.a.top"),
        ({"objects": {"a": MODEL}}, "objects.a.queries"),
        ({"objects": {"a": MODEL | {"queries": ["b"], "threshold": 1.5}}}, "objects.a.threshold"),
        ({"embeddings": {"a": MODEL, "b": MODEL}}, "index.of"),
        ({"embeddings": {"a": MODEL}, "index": {"of": "b"}}, "index.of"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(wrong: dict[str, Any], named: str) -> None:
    assert re.match(rf"the configuration: {re.escape(named)}\b", refused(config.parse, LEAST | wrong))


def test_several_mistakes_are_told_at_once() -> None:
    line = refused(config.parse, {"sources": LEAST["sources"], "runn": {}, "images": {"rate": "fast"}})
    assert "archive" in line
    assert "'run'" in line
    assert "images.rate" in line


@pytest.mark.parametrize(("given", "share"), [("1%", 0.01), ("0.5%", 0.005), (0.25, 0.25), ("100%", 1.0), (0, 0.0)])
def test_a_share_may_be_given_in_per_cent(given: Any, share: float) -> None:
    assert config.parse(LEAST | {"run": {"max_failed": given}}).run.max_failed == pytest.approx(share)


def test_classes_may_stand_in_a_file(tmp_path: Path, conf: str) -> None:
    """Their names are settings then: whoever works elsewhere has no such file."""
    path = tmp_path / "classes.txt"
    path.write_text("# of the demo\nsteam train\n\n  tent \n")

    def load(place: str) -> config.Settings:
        return config.load(conf, [f"labels.things={{model: 'local-dir:/models/tiny', classes: '{place}'}}"])

    for place in (str(path), path.as_uri()):
        settings = load(place)
        assert settings.labels["things"].classes == ("steam train", "tent")
        assert settings.derived()["labels/things"] == settings.labels["things"]
    for text, told in [("tent\n", "two classes or more"), ("tent\ntent\n", "'tent' comes several times")]:
        path.write_text(text)
        assert told in refused(load, str(path))
    said = refused(load, str(tmp_path / "none.txt"))
    assert "labels.things.classes: " in said and "No such file" in said


def test_queries_of_objects(conf: str, tmp_path: Path) -> None:
    def load(queries: str, more: str = "") -> config.Settings:
        return config.load(conf, [f"objects.things={{model: 'local-dir:/models/owl', queries: {queries}{more}}}"])

    path = tmp_path / "queries.txt"
    path.write_text("# of the demo\nbicycle\nhorse-drawn carriage\n")
    settings = load(str(path))
    assert settings.objects["things"].queries == ("bicycle", "horse-drawn carriage")
    assert settings.derived()["objects/things"] == settings.objects["things"] and settings.index.objects == "things"
    path.write_text("bicycle\nbicycle\n")
    assert "objects.things.queries: each query is to be named once: 'bicycle'" in refused(load, str(path))
    assert "a query or more" in refused(load, "[]")
    assert "one of the queries is empty" in refused(load, "['']")
    assert "must hold {} for the query" in refused(load, "[a]", ", template: a photo")


def test_whoever_only_wants_the_archive_needs_no_file_of_classes(conf: str) -> None:
    with Path(conf).open("a") as file:
        file.write("labels: {things: {model: 'local-dir:m', classes: /nowhere/classes.txt}}\n")
    assert config.archive_of(conf) == "./a"


def test_the_index_is_of_the_tables_that_are_named() -> None:
    """The archive may hold those of other configurations, and of this one under an earlier name."""
    labels = {"new": MODEL | {"classes": ["a", "b"]}}
    given = LEAST | {"embeddings": {"one": MODEL}, "captions": {"two": MODEL}, "labels": labels}
    index = config.parse(given).index
    assert (index.of, index.captions, index.labels) == ("one", "two", "new")
    assert config.parse(LEAST | {"embeddings": {"one": MODEL}}).index.labels is None
    named = config.parse(given | {"index": {"labels": "old"}}).index
    assert (named.captions, named.labels) == ("two", "old")
    for kind, setting in (("captions", "index.captions"), ("labels", "index.labels")):
        two = {kind: {name: next(iter(given[kind].values())) for name in ("a", "b")}}
        assert f"{setting}: choose one of the {kind}: a, b" in refused(config.parse, given | two)


@pytest.mark.parametrize("name", ["../../out", "a/b", "", ".hidden"])
def test_no_table_lies_outside_the_archive(name: str) -> None:
    assert "a table is named with" in refused(config.parse, LEAST | {"embeddings": {name: MODEL}})


def test_overrides_are_yaml_values_at_any_depth(conf: str) -> None:
    overrides = ["archive=s3://bucket/a", "sources.0.limit=200", "images.rate=null", "run.runner=local"]
    settings = config.load(conf, [*overrides, "captions.c={model: coca_ViT-L-14, pretrained: x}", "run.max_failed=2%"])
    assert settings.archive == "s3://bucket/a"
    assert isinstance(settings.sources[0], FlickrSource)
    assert (settings.sources[0].user, settings.sources[0].limit) == ("somebody", 200)
    assert settings.images.rate is None
    assert settings.run.runner == "local"
    assert settings.run.max_failed == pytest.approx(0.02)
    assert settings.captions["c"].pretrained == "x"


def test_the_last_of_two_overrides_stands(conf: str) -> None:
    assert config.load(conf, ["archive=b", "archive=c"]).archive == "c"


@pytest.mark.parametrize(
    "override",
    [
        "archive",
        "=x",
        "sources.1.limit=3",
        "sources.first.limit=3",
        "archive.b=1",
        "run.runner=[",
    ],
)
def test_an_override_that_fits_nowhere(conf: str, override: str) -> None:
    assert f"{override}" in refused(config.load, conf, [override])


def test_an_override_of_an_unknown_setting_suggests_the_nearest(conf: str) -> None:
    assert "did you mean 'part_size'?" in refused(config.load, conf, ["run.partsize=3"])


def test_a_file_that_is_missing_empty_or_no_yaml(tmp_path: Path) -> None:
    assert "No such file" in refused(config.load, str(tmp_path / "none.yaml"))
    for text, told in [
        ("", "no settings"),
        ("- a list", "no settings"),
        ("archive: [", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
    ]:
        path = tmp_path / "conf.yaml"
        path.write_text(text)
        line = refused(config.load, str(path))
        assert str(path) in line
        assert told in line
    path.write_bytes(b"\xff\xfe\xff")
    assert "cannot read the configuration" in refused(config.load, str(path))


@pytest.mark.parametrize("text", ["{text: a}", "[]", "[a, b]", "[{txt: a}]", "[{text: 5}]", "[{text: a, k: many}]"])
def test_queries_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queries.yaml"
    path.write_text(text)
    assert str(path) in refused(config.load_queries, str(path), 6, None)


def test_a_query_keeps_what_it_says_itself(tmp_path: Path) -> None:
    path = tmp_path / "queries.yaml"
    path.write_text("[{text: a, k: 2}, {image: 'flickr:1', plus: blue, where: 'true'}]")
    first, second = config.load_queries(str(path), 9, None)
    assert first == Query(text="a", k=2)
    assert second == Query(image="flickr:1", plus="blue", where="true", k=9)
