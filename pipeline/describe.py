"""Caption pictures and compare them with texts, without an archive: the figures behind `tintype describe`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pipeline import imaging
from pipeline.archive import Archive
from pipeline.models import openclip
from pipeline.models.coca import Captioner
from pipeline.models.settings import Generation
from pipeline.photo import UserError
from pipeline.search import MAX_PICTURE_PIXELS, read_picture

DEFAULT = ("coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k")


def describe(
    pictures: Sequence[str],
    texts: Sequence[str],
    *,
    model: str,
    pretrained: str | None,
    generation: Generation = "beam",
    archive: str | None = None,
) -> list[dict[str, Any]]:
    """`{"picture", "model", "caption", "logprob", "cosine", "texts": [{"text", "cosine", "probability"}]}` of each.

    A picture is a file, an http(s) URL, or a photo id of `archive`. The caption is None where the model is no CoCa.

    Probabilities are the softmax over the texts of the cosines times the model's own scale, as CLIP was trained
    (arXiv 2103.00020); with a single text they say nothing but 1. Raises UserError.
    """
    if generation not in get_args(Generation):
        raise UserError(f"--generation {generation}: choose one of {', '.join(get_args(Generation))}")
    if pretrained is None and model == DEFAULT[0]:
        pretrained = DEFAULT[1]
    images = [_decoded(name, archive) for name in pictures]
    loaded = openclip.load(model, pretrained)
    if not texts and not loaded.is_coca:
        raise UserError(f"{model} writes no captions: give it texts to compare with (--text), or name a CoCa")
    vectors, tokens = loaded.encode(np.stack([loaded.preprocess(image) for image in images]))
    captions = Captioner(loaded, generation).caption_tokens(tokens, vectors) if tokens is not None else []
    cosines = vectors @ loaded.embed_texts(list(texts)).T if texts else np.zeros((len(images), 0))
    scaled = np.exp(loaded.logit_scale * (cosines - cosines.max(axis=1, keepdims=True, initial=-1)))
    shares = scaled / scaled.sum(axis=1, keepdims=True) if texts else scaled
    said = []
    for row, name in enumerate(pictures):
        caption = captions[row] if captions else None
        compared = zip(texts, cosines[row].tolist(), shares[row].tolist(), strict=True)
        said.append(
            {
                "picture": name,
                "model": loaded.identity()["model"],
                "caption": caption.text if caption else None,
                "logprob": caption.logprob if caption else None,
                "cosine": caption.cosine if caption else None,
                "texts": [{"text": text, "cosine": cosine, "probability": share} for text, cosine, share in compared],
            }
        )
    return said


def _decoded(name: str, archive: str | None) -> Any:
    """The picture of that name. Raises UserError."""
    data = None
    if archive is not None and not Path(name).exists():
        data = _stored(Archive.open(archive), name)
    data = data or read_picture(name)
    try:
        return imaging.decode(data, max_pixels=MAX_PICTURE_PIXELS)
    except imaging.BadImage as error:
        raise UserError(f"{name} is not a usable picture ({error.reason}: {error})") from error


def _stored(archive: Archive, photo_id: str) -> bytes | None:
    """The bytes that the archive holds of a live photo; None where it has none."""
    live = archive.live_keys(archive.changes())
    row_ids = dict(zip(live["photo_id"].to_pylist(), live["row_id"].to_pylist(), strict=True))
    if photo_id not in row_ids:
        return None
    return archive.table("images").read_rows([row_ids[photo_id]], ["row_id", "image"])["image"][0].as_py()["bytes"]
