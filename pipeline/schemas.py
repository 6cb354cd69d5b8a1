"""The Arrow schema of every table: the data contract on one screen. `docs/tables.md` explains it column by column."""

import json

import pyarrow as pa

ROW_BITS = 20  # row_id = part × 2^20 + row


def row_ids(part: int, rows: int) -> pa.Array:
    """The row ids of a whole part: int64[rows]."""
    first = part << ROW_BITS
    return pa.array(range(first, first + rows), pa.int64())


def part_of(row_id: int) -> tuple[int, int]:
    """(part, row) that a row id addresses."""
    return row_id >> ROW_BITS, row_id & ((1 << ROW_BITS) - 1)


MOMENT = pa.timestamp("us", tz="UTC")
KEY = [pa.field("row_id", pa.int64(), nullable=False), pa.field("photo_id", pa.string(), nullable=False)]

PHOTOS = pa.schema(
    [
        *KEY,
        ("source", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("machine_tags", pa.list_(pa.string())),
        ("human_captions", pa.list_(pa.string())),
        ("date_taken", pa.string()),
        ("date_granularity", pa.string()),
        ("uploaded_at", MOMENT),
        ("updated_at", MOMENT),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("owner", pa.string()),
        ("owner_id", pa.string()),
        ("page_url", pa.string()),
        ("license_id", pa.string()),
        ("license_name", pa.string()),
        ("license_url", pa.string()),
        ("rights_observed_at", MOMENT),
        ("media", pa.string()),
        ("sizes", pa.list_(pa.struct([("url", pa.string()), ("width", pa.int32()), ("height", pa.int32())]))),
        ("raw", pa.string()),
        ("attempt", pa.int32()),  # 1 when first seen; one more each time the picture is asked for again
        ("listed_at", MOMENT),
    ]
)

IMAGES = pa.schema(
    [
        *KEY,
        ("outcome", pa.string()),  # fetched | gone | failed
        ("reason", pa.string()),  # of a failure: photo.REASONS
        ("detail", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("format", pa.string()),  # of the stored bytes: jpeg, png, …
        ("width", pa.int32()),  # of the stored picture, upright
        ("height", pa.int32()),
        ("small", pa.bool_()),  # its short side is below images.min_side: there was none larger
        ("store", pa.string()),  # original | derivative
        ("source_url", pa.string()),
        ("source_size", pa.int64()),  # bytes
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("source_sha256", pa.string()),
        ("fetched_at", MOMENT),
    ],
    # Hugging Face `datasets` reads this and shows the column as pictures.
    metadata={"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})},
)

CAPTIONS = pa.schema(
    [
        *KEY,
        ("caption", pa.string()),
        ("logprob", pa.float32()),  # mean natural log-probability per token
        ("cosine", pa.float32()),  # of the caption's text with the picture, in the captioning model's own space
        ("model", pa.string()),
        ("problem", pa.string()),
    ]
)

LABELS = pa.schema(
    [
        *KEY,
        # Best first: the likeliest classes, and their probabilities among all of the table.
        ("labels", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))),
        ("model", pa.string()),
        ("problem", pa.string()),
    ]
)

OBJECTS = pa.schema(
    [
        *KEY,
        # The likeliest first; none is an empty list. The box: its left, top, right and bottom edge, as shares of the
        # upright picture's width and height, so that it holds at any size.
        (
            "objects",
            pa.list_(
                pa.struct(
                    [("label", pa.string()), *((name, pa.float32()) for name in ("score", "x0", "y0", "x1", "y1"))]
                )
            ),
        ),
        ("model", pa.string()),
        ("problem", pa.string()),
    ]
)

CHANGES = pa.schema(
    [
        *KEY,  # row_id: the photo's live row when the change was observed
        ("field", pa.string()),  # title, license_id, …, or `visible` (false: gone, true: back)
        ("value", pa.string()),  # JSON
        ("observed_at", MOMENT),
        ("by", pa.string()),  # "source", or the person who corrected it
    ]
)

HASHES = pa.schema(
    [
        *KEY,
        ("hash", pa.binary(8)),  # phash.phash of the upright picture, null with a `problem` where there is none
        ("problem", pa.string()),
    ]
)

# One row a photo and tier: see docs/tables.md. Not a table of the archive, but a report on one index build.
DUPLICATES = pa.schema(
    [
        *KEY,
        ("tier", pa.string()),  # exact | near | similar
        ("group", pa.string()),  # photo_id of the group's representative
        ("representative", pa.bool_()),
        ("distance", pa.int32()),  # bits between its hash and the representative's
        ("cosine", pa.float32()),  # of its vector with the representative's
    ]
)

FORGOTTEN = pa.schema([*KEY, ("forgotten_at", MOMENT), ("reason", pa.string())])

# Folders of tables that are made of images, each with the schema of those in it; `embeddings` have a schema by dim.
DERIVED = {"embeddings": None, "captions": CAPTIONS, "labels": LABELS, "objects": OBJECTS, "hashes": HASHES}


def embeddings(dim: int) -> pa.Schema:
    """An embeddings table: one unit vector a picture, float16[dim], null with a `problem` where there is none."""
    return pa.schema([*KEY, ("embedding", pa.list_(pa.float16(), dim)), ("problem", pa.string())])


def derived(table: str, dim: int | None) -> pa.Schema | None:
    """The schema of a derived table; None where that is up to a dim that is not known."""
    return DERIVED[table.partition("/")[0]] or (embeddings(dim) if dim else None)
