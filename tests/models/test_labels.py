"""Labels: the softmax of cosines with the classes' mean vectors, and right of what the demo draws."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.scenes import OBJECTS
from pipeline.models import labels, openclip
from pipeline.models.openclip import Model
from pipeline.models.settings import LabelSettings
from pipeline.photo import UserError
from pipeline.training import pictures
from tests.models.conftest import pixels

DEMO = Path(__file__).parents[2] / "pipeline" / "demo" / "model"
TEMPLATES = ("a {}", "a print of a {} and of a {}")


@pytest.fixture(scope="module")
def loaded(model: Path) -> Model:
    return openclip.load(f"local-dir:{model}", None, device="cpu", precision="fp32")


def test_probabilities_are_the_softmax_of_scaled_cosines(loaded: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "TEXTS", 5)
    monkeypatch.setattr(labels, "ROWS", 2 * len(OBJECTS))
    made = labels.Labeller(loaded, LabelSettings("tiny", OBJECTS, templates=TEMPLATES, top=3))
    vectors = loaded.embed_images(pixels(7))

    classes = []
    for name in OBJECTS:
        mean = np.mean([loaded.embed_texts([template.replace("{}", name)])[0] for template in TEMPLATES], axis=0)
        classes.append(mean / np.sqrt((mean**2).sum()))
    logits = np.exp(loaded.net.logit_scale.item()) * (vectors.astype(np.float64) @ np.array(classes).T)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    assert np.allclose(made.probabilities(vectors), expected, atol=1e-5)
    for given, shares in zip(made.label(vectors), expected, strict=True):
        assert [label.label for label in given] == [OBJECTS[i] for i in np.argsort(-shares)[:3]]
        assert np.allclose([label.probability for label in given], np.sort(shares)[:-4:-1], atol=1e-5)


def test_the_scale_of_logits_is_that_of_the_weights_in_any_precision(loaded: Model, model: Path) -> None:
    rough = openclip.load(f"local-dir:{model}", None, device="cpu", precision="bf16")
    assert rough.logit_scale == loaded.logit_scale == pytest.approx(np.exp(loaded.net.logit_scale.item()))


def test_there_are_no_more_labels_than_classes(loaded: Model) -> None:
    made = labels.Labeller(loaded, LabelSettings("tiny", ("boat", "hill"), top=5))
    assert [len(given) for given in made.label(loaded.embed_images(pixels(2)))] == [2, 2]
    assert made.label(np.zeros((0, loaded.dim), np.float32)) == []


def test_the_demo_model_names_what_unseen_scenes_show() -> None:
    model = openclip.load(f"local-dir:{DEMO}", None, device="cpu", precision="fp32")
    scenes = [scene for scene in pictures.unseen_scenes(120) if len(scene.things) == 1]
    made = labels.Labeller(model, LabelSettings("demo", OBJECTS, templates=("a {}",), top=1))
    named = made.label(model.embed_images(np.stack(list(pictures.render(scenes, model.side)))))
    right = [label.label == scene.things[0].kind for [label], scene in zip(named, scenes, strict=True)]
    assert len(right) > 60 and np.mean(right) >= 0.9


@pytest.mark.parametrize("template", ["a boat", "a {0}", "a {thing}", "a {} of {", "}{}"])
def test_a_template_without_a_place_for_the_class_is_refused(template: str) -> None:
    with pytest.raises(UserError, match=r"must hold {} for the class"):
        LabelSettings("tiny", ("boat", "hill"), templates=("a {}", template))


@pytest.mark.parametrize(
    ("classes", "told"),
    [((), "two classes or more"), (("boat",), "two classes or more"), (("boat", "hill", "boat"), "'boat' comes")],
)
def test_classes_that_tell_nothing_apart_are_refused(classes: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        LabelSettings("tiny", classes)


def test_a_model_whose_embedding_is_chance_labels_nothing() -> None:
    with pytest.raises(UserError, match="for captions only"):
        LabelSettings("coca_ViT-B-32", ("boat", "hill"), "mscoco_finetuned_laion2b_s13b_b90k")
