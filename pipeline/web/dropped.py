"""Pictures that people drop in: each gets a name that says all that a search needs of it.

The name holds the unit vector of the picture for each model that is served, so a permalink goes on working after the
picture itself is forgotten: "picture." and, in base64url, for each model 4 bytes of its identity's SHA-256, the number
of dimensions (uint16), and the vector (float16), big-endian.
"""

import base64
import binascii
import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.builds import Build
from pipeline.photo import UserError
from pipeline.search import Picture

PREFIX = "picture."
_HEAD = struct.Struct("!4sH")


def name(vectors: Mapping[str, np.ndarray], builds: Mapping[str, Build]) -> str:
    """The name of a picture, from its unit vectors by the names of embeddings, float32[dim] each."""
    said = b"".join(
        _HEAD.pack(_key(builds[of].card["identity"]), len(vector)) + vector.astype(">f2").tobytes()
        for of, vector in vectors.items()
    )
    return PREFIX + base64.urlsafe_b64encode(said).rstrip(b"=").decode()


def picture(given: str, builds: Mapping[str, Build]) -> Picture:
    """The picture of a name, its vectors those for the indexes that are open. Raises UserError for anything else."""
    if not given.startswith(PREFIX):
        raise UserError(f"{given[:100]!r} is no photo of the archive; drop a picture in to search by it")
    try:
        text = given.removeprefix(PREFIX)
        said = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        keyed: dict[bytes, np.ndarray] = {}
        while said:
            key, dim = _HEAD.unpack_from(said)
            vector = np.frombuffer(said, ">f2", dim, _HEAD.size).astype(np.float32)
            said = said[_HEAD.size + 2 * dim :]
            length = float(np.linalg.norm(vector))
            if not 0.9 < length < 1.1:
                raise ValueError("no unit vector")
            keyed[key] = vector / length
    except (binascii.Error, struct.error, ValueError) as error:
        raise UserError("this name of a picture is damaged: drop the picture in again") from error
    vectors = {}
    for of, build in builds.items():
        known = keyed.get(_key(build.card["identity"]))
        if known is not None and len(known) == build.card["dim"]:
            vectors[of] = known
    return Picture(given, vectors=vectors)


def digest(given: str) -> str:
    """What the address of a dropped picture's thumbnail calls it: 32 hex digits."""
    return hashlib.sha256(given.encode()).hexdigest()[:32]


def _key(identity: Mapping[str, Any]) -> bytes:
    told = {key: value for key, value in identity.items() if key != "weights_license"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()[:4]
