"""open_clip is imported without torch's compiler, which is there for whoever wants it nevertheless."""

import subprocess
import sys

SCRIPT = """
import sys
from pipeline.models import openclip
import timm, torch, torchvision
assert "torch._dynamo" not in sys.modules and "_dynamo" not in vars(torch)
assert timm.list_models("vit_base_patch16_siglip_224")
boxes = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape == (1, 1, 2, 2)
doubled = torch.compile(lambda x: 2 * x, backend="eager")
assert doubled(torch.ones(2)).tolist() == [2, 2]
import torch._dynamo.utils
assert torch._dynamo.utils.__file__ and torch._dynamo.config.cache_size_limit
"""


def test_open_clip_comes_without_the_compiler_which_works_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
