"""What a configuration says of models, and what is known of their weights. Light: loading these takes no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from pipeline.photo import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Generation = Literal["beam", "greedy", "clean"]

TEMPLATES = ("a photo of a {}.",)
MOST_OVERLAP = 0.5  # intersection over union of two boxes with one label: with more, they are one object's
NAMED = 5  # wrong names that a message tells
ABOUT = "about.json"  # in a folder of weights, written last: its presence says that the others are there

# Detectors that words can steer, by Minderer et al.: arXiv 2205.06230 (OWL-ViT) and 2306.09683 (OWLv2).
OWL = (
    *("owlvit-base-patch32", "owlvit-base-patch16", "owlvit-large-patch14"),
    *("owlv2-base-patch16", "owlv2-base-patch16-ensemble", "owlv2-base-patch16-finetuned"),
    *("owlv2-large-patch14", "owlv2-large-patch14-ensemble", "owlv2-large-patch14-finetuned"),
)

# Licences of the weights that our configurations name, as their model cards state them.
LICENSES = {
    ("coca_ViT-L-14", "laion2b_s13b_b90k"): "MIT",
    ("coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k"): "MIT",
    ("coca_ViT-B-32", "laion2b_s13b_b90k"): "MIT",
    ("coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k"): "MIT",
    ("ViT-B-32", "laion2b_s34b_b79k"): "MIT",
    ("PE-Core-L-14-336", "meta"): "Apache-2.0",
    ("ViT-SO400M-16-SigLIP2-384", "webli"): "Apache-2.0",
    **dict.fromkeys([(f"google/{name}", "") for name in OWL], "Apache-2.0"),
}

# Fine-tuning on captions alone left these with an embedding that is chance.
CAPTIONS_ONLY = {
    ("coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k"),
    ("hf-hub:laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k", None),
}


def has_embedding(model: str, pretrained: str | None) -> bool:
    """Whether vectors of this model mean anything."""
    return (model, tag(pretrained)) not in CAPTIONS_ONLY


def check_embedding(model: str, pretrained: str | None) -> None:
    """Raises UserError where vectors of this model mean nothing."""
    if not has_embedding(model, pretrained):
        raise UserError(
            f"{named(model, pretrained)} is for captions only, its embedding is chance: "
            "embed with coca_ViT-L-14 / mscoco_finetuned_laion2b_s13b_b90k or ViT-B-32 / laion2b_s34b_b79k"
        )


def tag(pretrained: str | None) -> str | None:
    """A tag as OpenCLIP compares it: "laion2B-s13B" is "laion2b_s13b"."""
    return pretrained and pretrained.lower().replace("-", "_")


def named(model: str, pretrained: str | None) -> str:
    return f"{model} / {pretrained}" if pretrained else model


@dataclass(frozen=True)
class EmbeddingSettings:
    """One embedding of every picture."""

    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # noqa: RUF012

    model: str
    """An OpenCLIP model name, `local-dir:PATH` or `hf-hub:ORG/NAME`."""
    pretrained: str | None = None
    """A tag of that model, or the path or URL of a checkpoint; null with `local-dir:` and `hf-hub:`."""
    precision: Precision = "auto"
    """`auto` is bf16 where the device computes in it natively, else fp32."""

    def __post_init__(self) -> None:
        check_embedding(self.model, self.pretrained)


@dataclass(frozen=True)
class CaptionSettings:
    """One caption of every picture."""

    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # noqa: RUF012

    model: str
    """An OpenCLIP CoCa: its name, `local-dir:PATH` or `hf-hub:ORG/NAME`."""
    pretrained: str | None = None
    """A tag of that model, or the path or URL of a checkpoint; null with `local-dir:` and `hf-hub:`."""
    generation: Generation = "beam"
    """How the words are chosen: `beam`, open_clip's own search; `greedy`, the likeliest token each time; `clean`, a
    search by log-probability in which no three tokens in a row come twice."""
    precision: Precision = "auto"
    """`auto` is bf16 where the device computes in it natively, else fp32."""


@dataclass(frozen=True)
class LabelSettings:
    """Labels of every picture: which of some classes it shows, without training for them (zero-shot)."""

    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # noqa: RUF012

    model: str
    """An OpenCLIP model name, `local-dir:PATH` or `hf-hub:ORG/NAME`."""
    classes: tuple[str, ...] | str
    """Names of what is to be told apart, two or more: a list, or a text file with one a line, a local path or any
    fsspec URL."""
    pretrained: str | None = None
    """A tag of that model, or the path or URL of a checkpoint; null with `local-dir:` and `hf-hub:`."""
    templates: tuple[str, ...] = TEMPLATES
    """Texts that a class's name is put into, at `{}`. The mean of their vectors stands for the class."""
    top: Annotated[int, pydantic.Field(ge=1)] = 5
    """Labels a picture gets: the likeliest classes, with their probabilities among all."""
    precision: Precision = "auto"
    """`auto` is bf16 where the device computes in it natively, else fp32."""

    def __post_init__(self) -> None:
        check_embedding(self.model, self.pretrained)
        check_templates(self.templates)
        if not isinstance(self.classes, str):
            check_classes(self.classes)

    def identity(self) -> dict[str, Any]:
        """What labels depend on beside the model, ready for JSON."""
        told = {"classes": list(self.classes), "templates": list(self.templates), "top": self.top}
        return told | {"probability": "softmax"}


@dataclass(frozen=True)
class ObjectSettings:
    """Objects in every picture: where it shows what some words name, without training for them (zero-shot)."""

    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # noqa: RUF012

    model: str
    """An OWL-ViT or OWLv2: its name on the Hugging Face hub, such as `google/owlv2-base-patch16-ensemble`, or
    `local-dir:PATH`, a folder with the files of such a repository."""
    queries: tuple[str, ...] | str
    """What to look for, in a word or a few: a list, or a text file with one a line, a local path or any fsspec URL."""
    template: str = "a photo of a {}"
    """The text that a query is put into, at `{}`."""
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.2
    """The least score of an object that is kept. Scores of different queries and models do not compare; try some."""
    top: Annotated[int, pydantic.Field(ge=1)] = 20
    """Objects a picture gets at most: those of the highest scores."""
    precision: Precision = "auto"
    """`auto` is bf16 where the device computes in it natively, else fp32."""

    pretrained: ClassVar[None] = None  # these models bring their own weights

    def __post_init__(self) -> None:
        check_templates([self.template], "objects")
        if not isinstance(self.queries, str):
            check_queries(self.queries)

    def identity(self) -> dict[str, Any]:
        """What objects depend on beside the model, ready for JSON."""
        told = {"queries": list(self.queries), "template": self.template, "threshold": self.threshold, "top": self.top}
        return told | {"most_overlap": MOST_OVERLAP}


# What fills a table that annotating makes.
TableSettings = EmbeddingSettings | CaptionSettings | LabelSettings | ObjectSettings


def check_templates(templates: Sequence[str], what: str = "labels") -> None:
    """Raises UserError for what no name can be put into."""
    if not templates:
        raise UserError(f'{what} need a template or more, such as "a photo of a {{}}."')
    for template in templates:
        rest = template.replace("{}", "")
        if rest == template or "{" in rest or "}" in rest:
            name = {"labels": "class", "objects": "query"}[what]
            raise UserError(f'the template {template!r} must hold {{}} for the {name}, and no other braces: "a {{}}"')


def check_queries(queries: Sequence[str]) -> None:
    """Raises UserError for what names nothing to look for, or something twice."""
    if not queries:
        raise UserError("objects need a query or more, such as bicycle")
    if any(not query.strip() for query in queries):
        raise UserError("one of the queries is empty")
    _check_named_once(queries, "query")


def _check_named_once(names: Sequence[str], what: str) -> None:
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise UserError(f"each {what} is to be named once: {', '.join(map(repr, doubled[:NAMED]))} comes several times")


def check_classes(classes: Sequence[str]) -> None:
    """Raises UserError for names that do not tell two classes or more apart."""
    if any(not name.strip() for name in classes):
        raise UserError("one of the classes has an empty name")
    _check_named_once(classes, "class")
    if len(classes) < 2:
        raise UserError("labels need two classes or more: the probability of an only one is 1 whatever is shown")
