"""What a configuration of a training says. Light: reading one takes no torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pydantic

from pipeline.models.settings import TEMPLATES, check_templates

TextKind = Literal["human_captions", "captions", "title", "description", "tags"]


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
    templates: tuple[str, ...] = ()
    """Texts that a text is put into, at `{}`, one by chance each time; none: it stands as it is."""

    def __post_init__(self) -> None:
        if self.templates:
            check_templates(self.templates)


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
    templates: tuple[str, ...] = TEMPLATES
    """Texts that a class's name is put into, at `{}`, one by chance each time; none: it stands as it is."""

    def __post_init__(self) -> None:
        if self.templates:
            check_templates(self.templates)


@dataclass(frozen=True)
class CaptionedData:
    """Pictures with captions that people wrote: Flickr8k, Flickr30k, COCO, and folders like theirs."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    path: str
    """The folder that holds both the pictures' folder and the captions, as docs/evaluation.md has it: a local path or
    any fsspec URL."""
    kind: Literal["captioned"] = "captioned"
    """This kind of data."""
    templates: tuple[str, ...] = ()
    """Texts that a caption is put into, at `{}`, one by chance each time; none: it stands as it is."""

    def __post_init__(self) -> None:
        if self.templates:
            check_templates(self.templates)


DataSettings = Annotated[ArchiveData | LabelledData | CaptionedData, pydantic.Discriminator("kind")]
