"""OWL-ViT and OWLv2, loaded by the transformers library: pictures into patches, each with a box and what may be in it.

A patch of the picture stands for one object that may be there. What the object is, is told by comparing it with words.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.models import openclip, repository, settings
from pipeline.models.passes import DTYPES, Passes
from pipeline.models.weights import LOCAL_DIR, portable, reason
from pipeline.models.weights import sha256 as digest
from pipeline.photo import UserError

KINDS = ("owlvit", "owlv2")  # `model_type` of a configuration
CPU_TOKENS = 8192  # of the pictures of one pass on a CPU
# Times the network's side: no picture is longer when it is padded. The library blurs the whole square, which of a
# panorama would take gigabytes and minutes.
LONGEST = 3


@dataclass(frozen=True)
class Seen:
    """What was seen of n pictures, on the device.

    Attributes:
        features: [n, patches, width], fp32
        boxes: left, top, right, bottom as shares of the network's square, [n, patches, 4], fp32
    """

    features: torch.Tensor
    boxes: torch.Tensor


class Owl(Passes):
    """A loaded OWL-ViT or OWLv2.

    Attributes:
        dim: length of the vectors of texts
        context: tokens of a text that it reads
    """

    def __init__(self, net: Any, tokenizer: Any, processor: Any, identity: dict, device: str, precision: str) -> None:
        vision = net.config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        super().__init__(vision.image_size, device, precision, max(1, CPU_TOKENS // tokens))
        self.net = net.eval().requires_grad_(False).to(device)
        # The heads stay in fp32: bf16 tells an edge no better than to the 256th part of the picture.
        self._towers.vision_model.to(DTYPES[precision])
        net.layer_norm.to(DTYPES[precision])
        self.tokenizer = tokenizer
        self.processor = processor
        self.dim: int = net.config.projection_dim
        self.context: int = net.config.text_config.max_position_embeddings
        self._pads = bool(getattr(processor, "do_pad", False))
        self._identity = identity
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (processor.image_mean, processor.image_std)
        )

    @property
    def _towers(self) -> Any:
        return getattr(self.net, self.net.base_model_prefix)

    def identity(self) -> dict:
        """What it sees depends on, ready for JSON: equal identities, equal boxes (up to precision)."""
        return dict(self._identity)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """uint8[side, side, 3]: padded or stretched to a square and resized by the model's own processor.

        Needs no lock. The rest of what that does, which makes four times as many bytes of it, is done on the device.
        """
        most = LONGEST * self.side
        if self._pads and max(image.size) > most:
            image = image.copy()  # other models look at it too
            image.thumbnail((most, most))
        made = self.processor(image, do_normalize=False, return_tensors="pt")["pixel_values"][0]
        return (made * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()

    def extent(self, width: int, height: int) -> tuple[float, float]:
        """The shares of the square, from its upper left corner, that a picture of this size fills in `preprocess`.

        OWLv2 pads the shorter side on the right or below; OWL-ViT stretches the picture.
        """
        longest = max(width, height)
        return (width / longest, height / longest) if self._pads else (1.0, 1.0)

    def encode(self, pixels: np.ndarray | torch.Tensor) -> Seen:
        """One pass over uint8[n, side, side, 3] as `preprocess` or `stage` give them, n ≥ 1."""
        staged = self.stage(pixels) if isinstance(pixels, np.ndarray) else pixels
        parts = self.run(lambda rows: self._encode(staged[rows]), len(staged))
        return Seen(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        grid = self.net.image_embedder(batch.to(DTYPES[self.precision]))[0].float()
        features = grid.flatten(1, 2)
        boxes = self.net.box_predictor(features, grid)
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        return features, torch.cat([centre - half, centre + half], dim=-1)

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """n ≥ 1 texts → vectors on the device, fp32[n, dim]. Raises UserError for one that it cannot read whole."""
        for text, ids in zip(texts, self.tokenizer(texts, verbose=False)["input_ids"], strict=True):
            if len(ids) > self.context:
                told = f"{len(ids)} tokens, and {self._identity['model']} reads {self.context}"
                raise UserError(f"{text!r} is too long to look for: it has {told}")
        given = self.tokenizer(texts, padding="max_length", max_length=self.context, return_tensors="pt").to(
            self.device
        )
        towers = self._towers

        def embed(rows: slice) -> torch.Tensor:
            mask = given["attention_mask"][rows]
            pooled = towers.text_model(input_ids=given["input_ids"][rows], attention_mask=mask).pooler_output
            vectors: torch.Tensor = towers.text_projection(pooled)
            return vectors

        return torch.cat(self.run(embed, len(texts)))

    def scores(self, seen: Seen, texts: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Of each patch the text that it suits best, int64[n, patches], and its score, 0 to 1, float32[n, patches].

        `texts`: vectors of them. A score is NaN where the network computed what is no number.
        """
        with self.exclusive():
            asked = texts.expand(len(seen.features), -1, -1)
            best = self.net.class_predictor(seen.features, asked)[0].max(dim=-1)
            return best.indices.cpu().numpy(), best.values.sigmoid().cpu().numpy()


def load(
    model: str, path: Path, *, device: str | None = None, precision: str = "auto", sha256: str | None = None
) -> Owl:
    """Loads the weights at `path`, with the files beside them, onto `device` (None: CUDA, else MPS, else CPU).

    `sha256`: of that file, where it is known. Raises UserError, in one line, for what is no such model.
    """
    repository.check_library(model)
    import transformers

    device = device or openclip.default_device()
    precision = openclip.default_precision(device) if precision == "auto" else precision
    folder = path.parent
    try:
        config = json.loads((folder / repository.CONFIG).read_text(encoding="utf-8"))
        kind = config.get("model_type")
        if kind not in KINDS:
            raise UserError(f"{model} is a {kind}: objects are found by an {' or '.join(KINDS)}")
        with openclip.quiet(), repository.no_bar():
            net, read = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, *openclip.UNFIT) as error:
        raise UserError(f"{folder} does not hold {model} ({reason(error)})") from error
    if read["missing_keys"]:  # the library would make them up
        raise UserError(f"{path} does not hold all weights of {model}: {sorted(read['missing_keys'])[0]} is not there")
    side = net.config.vision_config.image_size
    preprocessing = _preprocessing(processor)
    if preprocessing["size"] != [side, side] or getattr(processor, "do_center_crop", False):
        raise UserError(f"{model}: its preprocessing must give the whole picture at {side} × {side} pixels")
    identity = {
        "model": portable(model) if model.startswith(LOCAL_DIR) else model,
        "pretrained": None,
        "checkpoint_sha256": sha256 or digest(path),
        "weights_license": settings.LICENSES.get((model, "")),
        "tokenizer": {"vocabulary": len(tokenizer), "context_length": net.config.text_config.max_position_embeddings},
        "preprocessing": preprocessing,
        "architecture": {name: said for name, said in config.items() if name != "transformers_version"},
    }
    loaded = Owl(net, tokenizer, processor, json.loads(json.dumps(identity)), device, precision)
    if device == "cuda":
        loaded.find_batch(least=4, most=128)
    return loaded


def _preprocessing(processor: Any) -> dict[str, Any]:
    """What makes pixels of a picture, ready for JSON, in the words of any release of the library."""
    size = dict(processor.size)
    pads = bool(getattr(processor, "do_pad", False))
    return {
        "size": [size.get("height"), size.get("width")],
        "pad": pads,
        "longest": LONGEST if pads else None,
        "resample": int(processor.resample),
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
    }
