"""The demo's CoCa while it is trained: OpenCLIP's own modules, but with a vocabulary of the few dozen tokens in use.

OpenCLIP's vocabulary has 49,408 tokens, of which the demo's world needs some fifty. Training works with those alone;
`save` puts the trained rows back where the full tables have them and leaves the others zero. A zero row gives its
token a logit of zero, so the caption loss counts all the unused tokens as so many zero logits, and the saved model
has the very probabilities that were trained.
"""

import copy
import json
from pathlib import Path

import open_clip
import torch
from open_clip.coca_model import CoCa
from safetensors.torch import save_file
from torch import Tensor, nn

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
_TABLES = {"text.token_embedding.weight": 0, "text_decoder.text_projection": 1}  # name → the axis of tokens


def build(config: dict, vocabulary: list[int]) -> CoCa:
    """An untrained CoCa of this `model_cfg`, its token i being the vocabulary's i-th."""
    small = copy.deepcopy(config)
    del small["custom_text"]
    for part in ("text_cfg", "multimodal_cfg"):
        small[part]["vocab_size"] = len(vocabulary)
    model = CoCa(**small)
    decoder = model.text_decoder
    nn.init.normal_(decoder.text_projection, std=decoder.width**-0.5)  # OpenCLIP leaves it uninitialised
    return model


def read_config(folder: Path) -> dict:
    """The `open_clip_config.json` of a model folder: `model_cfg` and `preprocess_cfg`."""
    return json.loads((folder / CONFIG).read_text())


def save(weights: dict[str, Tensor], vocabulary: list[int], vocab_size: int, folder: Path) -> None:
    """Write a trained state dict beside the folder's config, as fp16 and with the full tables."""
    full = {}
    for name, tensor in weights.items():
        if name in _TABLES:
            axis = _TABLES[name]
            shape = list(tensor.shape)
            shape[axis] = vocab_size
            tensor = torch.zeros(shape).index_copy(axis, torch.tensor(vocabulary), tensor)
        full[name] = tensor.to(torch.float16).contiguous()
    save_file(full, folder / WEIGHTS)


def tokenizer(config: dict) -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
