"""What a configuration of training says. Light: loading this takes no torch."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import pydantic

from pipeline.models.settings import TEMPLATES, check_templates

TextKind = Literal["human_captions", "captions", "title", "description", "tags"]
Unlocked = Literal["all", "head", "none"] | Annotated[int, pydantic.Field(ge=1)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]


def _checked(templates: tuple[str, ...]) -> tuple[str, ...]:
    if templates:
        check_templates(templates)
    return templates


# Texts that are to hold `{}`; there may be none.
Templates = Annotated[tuple[str, ...], pydantic.AfterValidator(_checked)]


@dataclass(frozen=True)
class ScenesData:
    """The demo's world: pictures drawn by code, and all that is true of them."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: Literal["scenes"] = "scenes"
    """This kind of data."""
    pictures: Annotated[int, pydantic.Field(ge=8)] = 60_000
    """How many are drawn; each is shown mirrored too."""
    templates: Templates = ()
    """Texts that a claim is put into, at `{}`, one by chance each time; none: it stands as it is."""
    known: bool = False
    """The model knew these before: `loss.keep` then holds these alone. With none marked, it holds all."""


@dataclass(frozen=True)
class ArchiveData:
    """Photos of an archive, and what its tables say of them; needs no index."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    archive: str
    """A configuration, or an archive's path or URL."""
    kind: Literal["archive"] = "archive"
    """This kind of data."""
    texts: Annotated[tuple[TextKind, ...], pydantic.Field(min_length=1)] = ("human_captions", "captions", "title")
    """Which texts of a photo are true of it. All of them teach the embedding; the first there is, in this order and
    but for tags, is what a captioner learns to write. `captions` are those that people corrected, and a machine's where
    `captions` below names its table. Titles that are file names are left out."""
    captions: str | None = None
    """A captions table of the archive, for `texts: [captions]`; null: people's corrections alone."""
    where: str | None = None
    """SQL over the photos, as `tintype search --where` takes it: only those it is true of."""
    templates: Templates = ()
    """Texts that a text is put into, at `{}`, one by chance each time; none: it stands as it is."""
    known: bool = False
    """The model knew these before: `loss.keep` then holds these alone. With none marked, it holds all."""


@dataclass(frozen=True)
class LabelledData:
    """Pictures sorted by what they show, and the names of that."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    path: str
    """A folder with a folder for each class, or `cifar10:PATH` or `cifar100:PATH`, of which the training pictures are
    taken: see docs/evaluation.md."""
    kind: Literal["labelled"] = "labelled"
    """This kind of data."""
    classes: str | None = None
    """A text file with a class a line, its name or key<tab>name; unset: what the data call them."""
    templates: Templates = TEMPLATES
    """Texts that a class's name is put into, at `{}`, one by chance each time; none: it stands as it is."""
    known: bool = False
    """The model knew these before: `loss.keep` then holds these alone. With none marked, it holds all."""


@dataclass(frozen=True)
class CaptionedData:
    """Pictures with captions that people wrote: Flickr8k, Flickr30k, COCO, and folders like theirs."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    path: str
    """The folder that holds both the pictures' folder and the captions, as docs/evaluation.md has it: a local path or
    any fsspec URL."""
    kind: Literal["captioned"] = "captioned"
    """This kind of data."""
    templates: Templates = ()
    """Texts that a caption is put into, at `{}`, one by chance each time; none: it stands as it is."""
    known: bool = False
    """The model knew these before: `loss.keep` then holds these alone. With none marked, it holds all."""


AnyData = Annotated[ArchiveData | LabelledData | CaptionedData | ScenesData, pydantic.Discriminator("kind")]


@dataclass(frozen=True)
class LossSettings:
    """What is learnt."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    contrastive: Literal["infonce", "sigmoid", "soft"] = "infonce"
    """`infonce`: CLIP's, with all true pairs of a batch counted as true. `sigmoid`: SigLIP's, the same. `soft`: that of
    the dual encoder in the textbook, whose targets are how alike pictures and texts of the batch are."""
    captions: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """Weight of the captioning loss of a CoCa beside the contrastive one. 0: captions are not trained."""
    confusable: Annotated[float, pydantic.Field(ge=1)] = 1.0
    """What a text weighs that is false of a picture though all its words are in true ones: "a red tent" where there is
    a red boat and a blue tent. Other pairs weigh 1."""
    keep: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """Weight of how far the vectors of pictures and texts are from where the model that it started from has them, in
    1 - cosine: fine-tuning forgets less (arXiv 2303.06628). 0: they move freely."""


@dataclass(frozen=True)
class UnlockedSettings:
    """Which weights are trained; the others stay as they are."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    image: Unlocked = "all"
    """Of the image tower: `all`; a number: so many of its last blocks, and its head; `head`: its projection, and what
    stands behind the last block; `none`."""
    text: Unlocked = "all"
    """Of the text tower, in the same way."""


@dataclass(frozen=True)
class ValidationSettings:
    """How training is judged."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    share: Share = 0.05
    """Share of the photos, chosen by a hash of their ids, that is never trained on."""
    photos: Annotated[int, pydantic.Field(ge=2)] = 1000
    """Photos at most among which a text is to find its own."""
    captions: Annotated[int, pydantic.Field(ge=0)] = 200
    """Of these, photos whose captions are written and compared, where captions are trained."""
    every: Annotated[int, pydantic.Field(ge=1)] = 500
    """Steps from one judgement to the next. The model kept is that of the best recall@1, or a later one within its
    standard error."""


@dataclass(frozen=True)
class TrainSettings:
    """One training: which model, on what, how, and where the result is put."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    out: str
    """Folder, a local path or any fsspec URL, of what comes of it: `model/`, which is given elsewhere as
    `local-dir:OUT/model`; `checkpoint.pt`, from which a stopped training goes on; `history.json`; `training.png`."""
    model: str
    """An OpenCLIP model name, `local-dir:PATH`, or `dual-encoder:VISION+TEXT`."""
    data: Annotated[tuple[AnyData, ...], pydantic.Field(min_length=1)]
    """What it learns from."""
    steps: Annotated[int, pydantic.Field(ge=1)]
    """How often the weights are changed."""
    pretrained: str | None = None
    """Weights to start from: a tag of that model, or the path or URL of a checkpoint; null with `local-dir:`."""
    from_scratch: bool = False
    """Start from random weights instead. A folder named as `local-dir:` needs none then."""
    batch: Annotated[int, pydantic.Field(ge=2)] = 256
    """Pictures of a step, over all workers."""
    texts: Annotated[int, pydantic.Field(ge=2)] | None = None
    """Texts of a step: one a picture unless given; more are drawn from the same pictures, or with `sigmoid` from all
    pictures, so that most are true of none of the step."""
    workers: Annotated[int, pydantic.Field(ge=1)] = 1
    """Workers of Ray Train that share a step's pictures, a GPU each where there are GPUs."""
    runner: Literal["ray", "local"] = "ray"
    """`ray`: on Ray Train. `local`: one worker, in this process."""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """What workers of Ray compute on: GPUs where the cluster has some; `gpu` waits for one that grows on demand."""
    accumulate: Annotated[int, pydantic.Field(ge=1)] = 1
    """In how many pieces a worker computes its share of a step, for memory's sake. The loss is that of the whole
    step: vectors are computed twice."""
    recompute: bool = False
    """Keep few activations, and compute the others again on the way back: less memory, a third more time."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 where the device computes in it natively, else fp32. Weights are kept in fp32."""
    learning_rate: Annotated[float, pydantic.Field(gt=0)] = 1e-4
    """At its height, of AdamW."""
    warm_up: Share = 0.05
    """Share of the steps in which the rate rises; then it falls to nothing along half a cosine."""
    weight_decay: Annotated[float, pydantic.Field(ge=0)] = 0.05
    """Of matrices; not of embeddings, biases and norms."""
    average: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    """Keep a running mean of the weights that forgets so slowly a step (0.999), and judge and save that. 0: none."""
    disturb: bool = False
    """Move pictures a little, make them brighter or darker, and grainy."""
    tokens: Literal["all", "used"] = "all"
    """`used`: train only the rows of the tables of tokens that the data's texts have; the others stay as they are."""
    loss: LossSettings = field(default_factory=LossSettings)
    """What is learnt."""
    unlocked: UnlockedSettings = field(default_factory=UnlockedSettings)
    """Which weights are trained."""
    mix: Share = 1.0
    """Share of the trained weights in those that are judged and saved; the rest is the weights it started from, which
    keeps what they knew (arXiv 2109.01903)."""
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    """How training is judged."""
    save_every: Annotated[int, pydantic.Field(ge=1)] = 200
    """Steps from one checkpoint to the next: what a kill may cost."""
    saved_as: Literal["fp32", "fp16"] = "fp32"
    """Precision of the saved model's weights."""
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    """Of random weights, of batches, and of texts."""
