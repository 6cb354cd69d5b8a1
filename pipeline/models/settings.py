"""What a configuration says of models, and what is known of their weights. Light: loading these takes no torch."""

from dataclasses import dataclass
from typing import Literal

from pipeline.photo import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Generation = Literal["beam", "greedy", "clean"]

ABOUT = "about.json"  # in a folder of weights, written last: its presence says that the others are there

# Licences of the weights that our configurations name, as their model cards state them.
LICENSES = {
    ("coca_ViT-L-14", "laion2b_s13b_b90k"): "MIT",
    ("coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k"): "MIT",
    ("coca_ViT-B-32", "laion2b_s13b_b90k"): "MIT",
    ("coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k"): "MIT",
    ("ViT-B-32", "laion2b_s34b_b79k"): "MIT",
    ("PE-Core-L-14-336", "meta"): "Apache-2.0",
    ("ViT-SO400M-16-SigLIP2-384", "webli"): "Apache-2.0",
}

# Fine-tuning on captions alone left these with an embedding that is chance.
CAPTIONS_ONLY = {
    ("coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k"),
    ("hf-hub:laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k", None),
}


def has_embedding(model: str, pretrained: str | None) -> bool:
    """Whether vectors of this model mean anything."""
    return (model, tag(pretrained)) not in CAPTIONS_ONLY


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
        if not has_embedding(self.model, self.pretrained):
            raise UserError(
                f"{named(self.model, self.pretrained)} is for captions only, its embedding is chance: "
                "embed with coca_ViT-L-14 / mscoco_finetuned_laion2b_s13b_b90k or ViT-B-32 / laion2b_s34b_b79k"
            )


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
