"""Does clip-retrieval's own back end serve what `tintype export --to clip-retrieval` writes?

    python benchmarks/exports.py [--quick] [--json]

In an environment of its own it loads the export by its own loader, is asked for each photo by that photo's vector, and
answers with its own metadata. Hugging Face `datasets`, DuckDB, Polars and pandas read theirs in tests/export.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import networks
import numpy as np
import peers
from peers import Figure, say

from pipeline import builds, export
from pipeline.archive import Archive
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive

PARTS, ROWS = 3, 20

# Runs with their packages; the model is loaded because their loader does so, and not asked.
ASK = """
import json, sys
import numpy as np
from clip_retrieval.clip_back import ClipOptions, KnnService, load_clip_indices

indices, vectors, model = sys.argv[1:]
columns = ["photo_id", "caption", "url", "license_url"]
options = ClipOptions("", model, False, False, columns, False, False, False, False, False, False, False)
service = KnnService(clip_resources=load_clip_indices(indices, options))
found = [
    service.query(embedding_input=vector.tolist(), num_images=3, num_result_ids=3, deduplicate=False)
    for vector in np.load(vectors)
]
print(json.dumps([{key: hits[0].get(key) for key in ("photo_id", "caption", "similarity")} for hits in found]))
"""


def main() -> None:
    given = peers.arguments(__doc__, ("clip-retrieval",))
    python = peers.environment(given.work, peers.CLIP_RETRIEVAL)
    with tempfile.TemporaryDirectory(prefix="tintype-exports-") as name:
        folder = Path(name)
        archive = Archive.create(str(folder / "archive"))
        for part in range(PARTS):
            photos = [small_archive.photo(f"flickr:{part}-{row}") for row in range(ROWS)]
            small_archive.add_pictures(archive, part, photos)
            small_archive.add_vectors(archive, part, list(small_archive.random_vectors(ROWS, seed=part)))
            small_archive.add_captions(archive, part)
        index.build(archive, IndexSettings())
        export.export(builds.open_build(archive.url), "clip-retrieval", str(folder / "out"))
        (folder / "indices.json").write_text(json.dumps({"photos": str(folder / "out")}))
        vectors = np.concatenate([small_archive.random_vectors(ROWS, seed=part) for part in range(PARTS)])
        np.save(folder / "vectors.npy", vectors.astype(np.float32))
        say(f"clip-retrieval asked for {len(vectors)} photos")
        model = f"open_clip:ViT-B-32/{networks.checkpoint('ViT-B-32', given.work)}"
        command = [python, "-c", ASK, folder / "indices.json", folder / "vectors.npy", model]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
    found = json.loads(done.stdout.splitlines()[-1])
    asked = [f"flickr:{part}-{row}" for part in range(PARTS) for row in range(ROWS)]
    right = [
        (hit["photo_id"], hit["caption"]) == (photo, f"caption of {photo}")
        for hit, photo in zip(found, asked, strict=True)
    ]
    peers.report(
        "exports", {"photos found first by their vector": Figure(float(np.mean(right)), "of all", 1)}, given.json
    )


if __name__ == "__main__":
    main()
