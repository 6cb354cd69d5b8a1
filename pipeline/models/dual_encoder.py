"""The textbook's dual encoder: a ResNet and a DistilBERT, each with a projection head into a space of both.

After K. Salama, "Natural language image search with a Dual Encoder" (Keras code examples, 2021): the pooled features
of the one, the vector of [CLS] of the other, 256 dimensions. To the rest it is an OpenCLIP network like any other. Its
folder is OpenCLIP's too (`open_clip_config.json`, `open_clip_model.safetensors`), with the text tower's `config.json`
and its tokenizer's files beside them, so that loading it asks nothing of a hub.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
import torch.nn.functional as F

# Here, and not first where halves builds networks without torch's compiler: what it keeps of that must be real.
import transformers.masking_utils  # noqa: F401
from open_clip.factory import load_state_dict
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from pipeline.models import repository, weights
from pipeline.models.weights import CONFIG, TOWERS, UNFIT
from pipeline.photo import UserError

A = TypeVar("A")
B = TypeVar("B")

DIM, DROPOUT, CONTEXT = 256, 0.1, 200  # the textbook's: a vector's length, of what share, most tokens of a text
SCALE = math.log(1 / 0.07)  # CLIP's start; the textbook's own is 0
FORM = "config.json"  # of a tower, as timm and transformers write it
TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
TOWER = ("model.safetensors", "pytorch_model.bin")  # its weights, by the names that they have on the hub
FILE_IS = "resnet50"  # what a file of weights alone is of: it does not say


class Head(nn.Module):
    """[n, width] → [n, dim]: linear, GELU, linear, dropout, the first linear added, layer norm."""

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim)
        self.linear = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(x)
        return self.norm(projected + self.dropout(self.linear(F.gelu(projected))))


class ImageTower(nn.Module):
    """Normalised pixels [n, 3, side, side] → [n, dim].

    Attributes:
        trunk: one of timm's networks, without its classifier
        image_size: `side`
        preprocess_cfg: OpenCLIP's dictionary
    """

    def __init__(self, trunk: Any, head: Head, image_size: int, preprocess: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.image_size = image_size
        self.preprocess_cfg = merge_preprocess_dict(PreprocessCfg(), preprocess | {"size": image_size})

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.trunk(pixels))


class TextTower(nn.Module):
    """Token ids int64[n, length], padded behind → [n, dim]: of each text's first token, [CLS].

    Attributes:
        trunk: an encoder of transformers
    """

    def __init__(self, trunk: Any, head: Head) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.pad: int = trunk.config.pad_token_id

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != self.pad
        used = int(mask.any(dim=0).nonzero()[-1]) + 1  # behind the end of the longest text there is nothing to compute
        states = self.trunk(input_ids=ids[:, :used], attention_mask=mask[:, :used]).last_hidden_state
        return self.head(states[:, 0])


class DualEncoder(nn.Module):
    """Both towers, with the methods of OpenCLIP's networks.

    Attributes:
        config: `model_cfg` of its folder
        logit_scale: log of what cosines are multiplied with
    """

    def __init__(self, visual: ImageTower, text: TextTower, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.visual = visual
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(float(config.get("init_logit_scale", SCALE))))
        self.logit_bias = None  # open_clip asks for it

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Normalised pixels [n, 3, side, side] → [n, dim], at unit length if asked."""
        features = self.visual(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token ids int64[n, length] → [n, dim], at unit length if asked."""
        features = self.text(text)
        return F.normalize(features, dim=-1) if normalize else features

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors [n, dim] of pictures and of texts, and the scale of their cosines."""
        return self.encode_image(image, True), self.encode_text(text, True), self.logit_scale.exp()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the trunks keep no activations for the backward pass, and compute them again there."""
        self.visual.trunk.set_grad_checkpointing(enable)
        if enable:
            self.text.trunk.activation_checkpointing_enable()
        else:
            self.text.trunk.activation_checkpointing_disable()


@dataclass(frozen=True)
class Vision:
    """A network of timm's: its name there, a file with its weights (None: random), and what timm says of these."""

    architecture: str
    file: Path | None
    about: dict[str, Any]


def create(folder: Path) -> DualEncoder:
    """The network that a folder describes, with random weights.

    Raises UserError where its configuration lacks something, and for towers that cannot be built.
    """
    given = json.loads((folder / CONFIG).read_text())
    config = given["model_cfg"]
    try:
        config["embed_dim"], config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
        vision = config["vision_cfg"]["timm_model_name"]
    except KeyError as error:
        raise UserError(f"{folder / CONFIG} is not a dual encoder's: it lacks {error}") from error
    return _joined(_image_trunk(vision), _random_text(folder), config, given.get("preprocess_cfg", {}))


def of_towers(model: str, pretrained: str | None) -> tuple[DualEncoder, HFTokenizer, dict[str, Any]]:
    """The network that `dual-encoder:VISION+TEXT` names, with random heads, its tokenizer, and its `model_cfg`.

    VISION is a name of timm's, a folder in timm's form, or a file with the weights of a ResNet-50. TEXT is a repository
    of the hub or a folder in transformers' form. `pretrained`: None for the weights of both, "random" for none of them,
    for which configuration and tokenizer suffice in TEXT. Raises UserError for towers that cannot be had.
    """
    vision, plus, text = model.removeprefix(TOWERS).partition("+")
    if not (vision and plus and text):
        raise UserError(f"{model}: a dual encoder is named by its towers, {TOWERS}resnet50+distilbert-base-uncased")
    if pretrained not in (None, "random"):
        raise UserError(f"{model} names its towers, whose weights are taken: leave out pretrained: {pretrained}")
    random = pretrained is not None
    # Who must fetch them elsewhere is told of both at once.
    image, folder = _both(lambda: _find_vision(vision, random), lambda: _find_text(text, random))
    image_trunk = _image_trunk(image.architecture)
    if image.file:
        _fill(image_trunk, image)
    text_trunk = _random_text(folder) if random else _trained_text(folder)
    tokenizer = read_tokenizer(folder, min(CONTEXT, text_trunk.config.max_position_embeddings))
    name = folder.name if Path(text).expanduser().is_dir() else text
    about = image_trunk.pretrained_cfg | image.about
    config = {
        "embed_dim": DIM,
        "init_logit_scale": SCALE,
        "dual_encoder": {"dropout": DROPOUT},
        "vision_cfg": {"timm_model_name": image.architecture, "image_size": about["input_size"][-1]},
        "text_cfg": {"hf_model_name": name, "hf_tokenizer_name": name, "context_length": tokenizer.context_length},
    }
    # As in the textbook, pictures are squashed: what a caption tells may be at the edge that a crop would cut off.
    preprocess = {key: about[key] for key in ("mean", "std", "interpolation")} | {"resize_mode": "squash"}
    return _joined(image_trunk, text_trunk, config, preprocess), tokenizer, config


def read_tokenizer(folder: Path, context_length: int) -> HFTokenizer:
    """The tokenizer of a text tower: texts → int64[n, context_length]. Raises UserError where there is none, or one
    that puts no [CLS] in front and no padding behind."""
    try:
        found = HFTokenizer(folder, context_length=context_length)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"{folder}: its tokenizer cannot be read ({weights.reason(error)})") from error
    words = found.tokenizer
    if len(words) <= len(words.all_special_ids):  # transformers makes one without words of an empty folder
        raise UserError(f"there are no tokenizer's files in {folder} ({', '.join(TOKENIZER)}): put them there")
    pad = _text_config(folder).pad_token_id
    if words.cls_token_id is None or words.pad_token_id != pad or words.padding_side != "right":
        raise UserError(
            f"the text tower in {folder} is not of BERT's kind: texts must begin with [CLS], padding follow"
        )
    return found


def save_beside(net: DualEncoder, tokenizer: HFTokenizer, folder: Path) -> None:
    """Write what its folder holds besides weights: the configuration, the text tower's, the tokenizer's files."""
    preprocess = {key: value for key, value in net.visual.preprocess_cfg.items() if key != "size"}
    (folder / CONFIG).write_text(json.dumps({"model_cfg": net.config, "preprocess_cfg": preprocess}, indent=2) + "\n")
    net.text.trunk.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _joined(image: Any, text: Any, config: dict[str, Any], preprocess: dict[str, Any]) -> DualEncoder:
    dim, dropout = config["embed_dim"], config["dual_encoder"].get("dropout", DROPOUT)
    visual = ImageTower(
        image, Head(image.head_hidden_size, dim, dropout), config["vision_cfg"]["image_size"], preprocess
    )
    return DualEncoder(visual, TextTower(text, Head(text.config.hidden_size, dim, dropout)), config)


def _both(first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """What both find. Raises the UserErrors of both as one."""
    try:
        found = first()
    except UserError as error:
        try:
            second()
        except UserError as other:
            raise UserError(f"{error}; and {other}") from other
        raise
    return found, second()


def _find_vision(name: str, random: bool) -> Vision:
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_timm_folder(path, random)
    if path.is_file():
        return Vision(FILE_IS, None if random else path, {})
    try:
        about = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the tag behind the name's dot
        about = None
    if about is None:
        raise UserError(f"timm has no network {name!r}, and there is no such file or folder")
    if random:
        return Vision(name, None, {})
    if not about.hf_hub_id:
        raise UserError(f"timm has no weights of {name} on the hub: name a folder with them in timm's form")
    what = f"the weights of the image tower {name}"
    how = f"name their folder instead of the tower: {TOWERS}/path/to/the/folder+TEXT"
    return Vision(name, weights.from_hub(what, about.hf_hub_id, (FORM,), TOWER, how), {})


def _in_timm_folder(folder: Path, random: bool) -> Vision:
    try:
        given = json.loads((folder / FORM).read_text())
        architecture = given["architecture"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / FORM} does not name a network of timm's ({weights.reason(error)})") from error
    found = [folder / name for name in TOWER if (folder / name).is_file()]
    if not (random or found):
        raise UserError(f"there are no weights in {folder} ({' or '.join(TOWER)})")
    return Vision(architecture, None if random else found[0], given.get("pretrained_cfg", {}))


def _find_text(name: str, random: bool) -> Path:
    """A folder in transformers' form."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    what = f"the files of the text tower {name}"
    how = f"name their folder instead of the tower: {TOWERS}VISION+/path/to/the/folder"
    needed, candidates = (TOKENIZER, (FORM,)) if random else ((*TOKENIZER, FORM), TOWER)
    return weights.from_hub(what, name, needed, candidates, how).parent


def _image_trunk(name: str) -> Any:
    try:
        return timm.create_model(name, num_classes=0)
    except RuntimeError as error:
        raise UserError(f"timm cannot build {name} ({weights.reason(error)})") from error


def _fill(trunk: Any, image: Vision) -> None:
    """Weights from a file, of which the classifier's are left."""
    try:
        given = load_state_dict(str(image.file))
        wanted = trunk.state_dict()
        trunk.load_state_dict({name: value for name, value in given.items() if name in wanted})
    except UNFIT as error:
        raise UserError(
            f"{image.file} does not hold weights of {image.architecture} ({weights.reason(error)})"
        ) from error


def _text_config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / FORM} is no configuration of a text tower ({weights.reason(error)})") from error
    if not all(hasattr(config, name) for name in ("hidden_size", "max_position_embeddings", "pad_token_id")):
        raise UserError(f"{folder / FORM} is no configuration of a text tower (but of {config.model_type})")
    return config


def _random_text(folder: Path) -> Any:
    return _without_pooler(AutoModel.from_config(_text_config(folder), dtype=torch.float32))


def _trained_text(folder: Path) -> Any:
    config = _text_config(folder)
    try:
        with repository.no_bar():
            trunk, told = AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, *UNFIT) as error:
        raise UserError(f"{folder} does not hold a text tower ({weights.reason(error)})") from error
    # Transformers makes up what is missing, and only warns.
    if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
        raise UserError(f"the weights in {folder} are not of a {trunk.config.model_type}: they lack {missing[0]}")
    return _without_pooler(trunk)


def _without_pooler(trunk: Any) -> Any:
    """BERT's own, which [CLS] of the last hidden state does not pass: it would be trained by nothing."""
    if getattr(trunk, "pooler", None) is not None:
        trunk.pooler = None
    return trunk
