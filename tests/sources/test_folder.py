"""A tree of pictures, with whatever lies beside and inside them, becomes photos in the order of their paths."""

import json
import os
from collections.abc import Container
from io import BytesIO
from pathlib import Path

import fsspec
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from pipeline import storage
from pipeline.photo import Photo, Size, UserError
from pipeline.sources import Listing
from pipeline.sources.facts import partial_date
from pipeline.sources.folder import FolderSource

DATA = Path(__file__).parents[3] / "shared" / "data"


def picture(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "teal").save(path, **options)
    return path


def listed(source: FolderSource, known: Container[str] = ()) -> tuple[list[Photo], Listing]:
    pages, photos = source.photos(known), []
    while True:
        try:
            photos += next(pages)
        except StopIteration as stop:
            return photos, stop.value


def only(path: Path, **settings: object) -> Photo:
    photos, _ = listed(FolderSource(str(path), **settings))
    assert len(photos) == 1
    return photos[0]


def test_the_tree(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/two.png", "a/One.JPEG", "a.jpg", "a/deep/er/x_y.webp", ".hidden.jpg", "__MACOSX/b.jpg"):
        picture(tmp_path / name)
    (tmp_path / "scan0001").write_bytes((tmp_path / "b.jpg").read_bytes())  # a picture without an extension
    (tmp_path / "broken.tif").write_bytes(b"<html>")  # listed for its name: fetch will say what is wrong with it
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").touch()
    photos, listing = listed(FolderSource(str(tmp_path)))
    paths = ["a.jpg", "a/One.JPEG", "a/deep/er/x_y.webp", "a/two.png", "b.jpg", "broken.tif", "scan0001"]
    assert (
        [photo.photo_id for photo in photos] == [f"file:{path}" for path in paths] == sorted(f"file:{p}" for p in paths)
    )
    assert listing == Listing(True, 7, 7, "passed over 2 files that are no pictures")
    deep = photos[2]
    assert (deep.title, deep.page_url, deep.owner, deep.date_taken) == ("x y", None, None, None)
    assert (deep.rights.license_name, deep.rights.license_url) == (None, None)
    assert deep.source == f"folder:{tmp_path}"
    assert deep.sizes == (Size(f"{tmp_path}/a/deep/er/x_y.webp"),)
    assert storage.read(deep.sizes[0].url) == (tmp_path / "a/deep/er/x_y.webp").read_bytes()


def test_known_photos_are_passed_over_and_the_limit_counts_them(tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / f"{number}.png")
    photos, listing = listed(FolderSource(str(tmp_path), limit=3), known={"file:1.png"})
    assert [photo.photo_id for photo in photos] == ["file:0.png", "file:2.png"]
    assert (listing.complete, listing.seen) == (True, 3)
    assert listing.note == "stopped at the limit of 3"


def test_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.folder.PAGE", 2)
    for number in range(5):
        picture(tmp_path / f"{number}.png")
    assert [len(page) for page in FolderSource(str(tmp_path)).photos(())] == [2, 2, 1]


def test_a_relative_path_is_addressed_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "box" / "a.png")
    monkeypatch.chdir(tmp_path)
    source = FolderSource("./box/")
    photos, _ = listed(source)
    assert source.name == FolderSource(str(tmp_path / "box")).name
    assert photos[0].sizes == (Size(str(tmp_path / "box" / "a.png")),)


def test_asking_again(tmp_path: Path) -> None:
    path = picture(tmp_path / "a" / "b.png")
    source = FolderSource(str(tmp_path), prefix="box1/")
    photos, _ = listed(source)
    assert [photo.photo_id for photo in photos] == ["file:box1/a/b.png"]
    assert source.sizes("file:box1/a/b.png") == [Size(str(path))]
    path.unlink()
    assert source.sizes("file:box1/a/b.png") is None


def test_at_a_url() -> None:
    fs = fsspec.filesystem("memory")
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    for name in ("b.jpg", "a/x.jpg"):
        fs.pipe_file(f"/scans/{name}", file.getvalue())
    fs.pipe_file("/scans/captions.csv", b"file,title\na/x.jpg,Told\n")
    try:
        source = FolderSource("memory://scans/")
        photos, listing = listed(source)
        assert [(photo.photo_id, photo.title) for photo in photos] == [("file:a/x.jpg", "Told"), ("file:b.jpg", "b")]
        assert listing == Listing(True, 2, 2, None)
        assert storage.read(photos[0].sizes[0].url) == file.getvalue()
        assert source.sizes("file:b.jpg") == [Size("memory://scans/b.jpg")]
        with pytest.raises(UserError, match="is a file"):
            FolderSource("memory://scans/b.jpg").check()
        with pytest.raises(UserError, match="no folder"):
            FolderSource("memory://elsewhere").check()
    finally:
        fs.rm("/scans", recursive=True)


# --- what can be wrong with a tree ------------------------------------------------------------------------------------


def test_users_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing here")
    file = picture(tmp_path / "a.png")
    for path, words in ((tmp_path / "none", "no folder"), (tmp_path / "empty", "no pictures"), (file, "is a file")):
        source = FolderSource(str(path))
        for call in (source.check, lambda source=source: listed(source)):
            with pytest.raises(UserError, match=words) as caught:
                call()
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "closed" / "b.png")
    scandir = os.scandir  # the tests may run as root, to whom nothing is closed

    def closed(path: Path) -> object:
        if Path(path).name == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    shut = "closed"
    photos, listing = listed(FolderSource(str(tmp_path)))
    assert [photo.photo_id for photo in photos] == ["file:a.png"]
    assert listing == Listing(False, 1, 1, "could not read 1 folders or files, such as closed/")
    shut = tmp_path.name
    with pytest.raises(UserError, match="cannot be read"):
        FolderSource(str(tmp_path)).check()


def test_links(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a" / "x.png")
    outside = picture(tmp_path / "out" / "y.png").parent
    (tmp_path / "in" / "a" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in" / "self")
    (tmp_path / "in" / "other").symlink_to(outside)
    photos, _ = listed(FolderSource(str(tmp_path / "in")))
    assert [photo.photo_id for photo in photos] == ["file:a/x.png", "file:other/y.png"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(picture(tmp_path / "a.png").parent) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:  # noqa: PTH123
            file.write((tmp_path / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    photos, listing = listed(FolderSource(str(tmp_path)))
    assert [photo.photo_id for photo in photos] == ["file:a.png"]
    assert listing.note == "passed over 1 pictures whose names are not UTF-8: rename them"


# --- files beside the pictures ----------------------------------------------------------------------------------------


def test_captions_jsonl(tmp_path: Path) -> None:
    picture(tmp_path / "box" / "a.png")
    row = {
        "file": "box/a.png", "title": "A mill", "captions": ["one", "two"], "description": "By a river",
        "Creator": "Vachon", "date": "June 1942", "licence": "CC BY 4.0", "source_url": "https://example.org/1",
        "tags": ["mill", "river"], "shelf": 1,
    }  # fmt: skip
    (tmp_path / "captions.jsonl").write_text(json.dumps(row) + "\n")
    photo = only(tmp_path)
    assert (photo.title, photo.description, photo.owner) == ("A mill", "By a river", "Vachon")
    assert (photo.human_captions, photo.tags) == (("one", "two"), ("mill", "river"))
    assert (photo.date_taken, photo.date_granularity) == ("1942", "year")
    assert photo.rights.license_url == "https://creativecommons.org/licenses/by/4.0/"
    assert photo.page_url == "https://example.org/1"
    assert photo.raw and json.loads(photo.raw) == row


def test_metadata_csv(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text(
        '\ufefffile_name,title,tags,url,rights\na.png,"Mill, river",mill; water,not a url,© Somebody\n', "utf-8"
    )
    (a, b), listing = listed(FolderSource(str(tmp_path), license="https://creativecommons.org/publicdomain/zero/1.0/"))
    assert (a.title, a.tags, a.page_url) == ("Mill, river", ("mill", "water"), None)
    assert (a.rights.license_name, a.rights.license_url) == ("© Somebody", None)
    assert (b.title, b.rights.license_name) == (
        "b",
        "CC0 1.0",
    )  # the folder's own licence, where the picture names none
    assert listing.note is None


def test_the_nearest_file_is_believed(tmp_path: Path) -> None:
    for box in ("box1", "box2"):
        picture(tmp_path / box / "a.png")
    (tmp_path / "captions.jsonl").write_text(
        '{"file": "box1/a.png", "title": "far", "creator": "Lee"}\n{"file": "box2/a.png", "title": "only"}\n'
    )
    (tmp_path / "box1" / "captions.csv").write_text("file,title\na.png,near\n")
    photos, _ = listed(FolderSource(str(tmp_path)))
    assert [(photo.title, photo.owner) for photo in photos] == [("near", "Lee"), ("only", None)]


def test_a_file_that_names_what_is_not_there_and_has_bad_lines(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text(
        '{"file": "a.png", "title": "A"}\n{"file": "gone.png"}\n{oops\n[1]\n{"title": 1}\n'
    )
    photos, listing = listed(FolderSource(str(tmp_path)))
    assert [photo.title for photo in photos] == ["A"]
    assert listing.note == (
        "captions.jsonl names 1 files that are not there, such as gone.png and has 3 lines that cannot be read"
    )


def test_names_match_however_their_accents_are_written(tmp_path: Path) -> None:
    picture(tmp_path / "cafe\u0301.png")  # as macOS writes it
    (tmp_path / "captions.csv").write_text("file,title\ncaf\u00e9.png,Café\n", "utf-8")
    assert only(tmp_path).title == "Café"


def test_half_a_character_is_no_reason_to_stop(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.png", "title": "A mill \\ud83d"}\n{"file": "\\ud83d.png"}\n')
    annotations = '[{"image_id": 1, "caption": "A \\ud83d"}]'
    (tmp_path / "captions.json").write_text(
        f'{{"images": [{{"id": 1, "file_name": "a.png"}}], "annotations": {annotations}}}'
    )
    [photo], listing = listed(FolderSource(str(tmp_path)))
    assert (photo.title, photo.human_captions) == ("A mill ?", ("A ?",))
    assert photo.raw and photo.raw.isprintable()
    assert listing.note == "captions.jsonl names 1 files that are not there, such as ?.png"


FIVE = (
    "A child in a pink dress .",
    "A girl going into a wooden building .",
    "Stairs , and a girl .",
    "A girl .",
    'A "cabin" .',
)


@pytest.mark.parametrize("folder", ["Images", "Flicker8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset"])
def test_flickr8k_captions_txt(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / folder / "1000268201_693b08cb0e.jpg")
    lines = [f"1000268201_693b08cb0e.jpg,{caption}" for caption in FIVE]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    photo = only(tmp_path)
    assert photo.human_captions == FIVE
    assert photo.title == "1000268201 693b08cb0e"


def test_captions_txt_quoted_or_not_from_windows(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "Images" / name)
    lines = [
        "image,caption",
        'a.jpg,"Stairs, and a ""girl"" ."',  # as CSV has it
        'a.jpg,"Stairs", says a girl, and goes',  # as nobody has it
        'a.jpg,"Stairs , says a girl',  # must not swallow the lines below
        "",
        "b.jpg,one\u2028line , \u201ctold\u201d",
        "no comma",
        "c.jpg,of no picture",
    ]
    (tmp_path / "captions.txt").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    (a, b), listing = listed(FolderSource(str(tmp_path)))
    assert a.human_captions == ('Stairs, and a "girl" .', '"Stairs", says a girl, and goes', '"Stairs , says a girl')
    assert b.human_captions == ("one\u2028line , \u201ctold\u201d",)
    assert listing.note == (
        "captions.txt names 1 files that are not there, such as c.jpg and has 1 lines that cannot be read"
    )


@pytest.mark.parametrize(
    ("lines", "encoding"),
    [
        (['"image","caption"', 'a.jpg,"A girl , going"', "a.jpg,A mill ."], "utf-8"),
        (["a.jpg,A girl , going", "a.jpg,A mill ."], "utf-8"),
        (["image,caption", "a.jpg,A girl , going", "a.jpg,A mill ."], "utf-16"),
        (["image_name,comment_number,comment", "a.jpg,0,A girl , going", "a.jpg,1,A mill ."], "utf-8"),
        (["image_name| comment_number| comment", "a.jpg| 0| A girl , going", "a.jpg| 1| A mill ."], "utf-8"),
        (["a.jpg| 0| A girl , going", "a.jpg| 1| A mill ."], "utf-8-sig"),
    ],
)
def test_captions_txt_in_other_hands(tmp_path: Path, lines: list[str], encoding: str) -> None:
    picture(tmp_path / "Images" / "a.jpg")
    (tmp_path / "captions.txt").write_bytes("\n".join(lines).encode(encoding))
    [photo], listing = listed(FolderSource(str(tmp_path)))
    assert (photo.human_captions, listing.note) == (("A girl , going", "A mill ."), None)


def test_a_namesake_further_below_is_another_picture(tmp_path: Path) -> None:
    for name in ("a.jpg", "photos/a.jpg", "photos/b.jpg"):
        picture(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file,title\na.jpg,Told of a\nb.jpg,Told of b\n")
    photos, listing = listed(FolderSource(str(tmp_path)))
    assert [photo.title for photo in photos] == ["Told of a", "a", "Told of b"]
    assert listing.note is None


@pytest.mark.parametrize("place", [".", "Flickr8k_text", "Flickr_TextData"])
def test_flickr8k_token_txt(tmp_path: Path, place: str) -> None:
    picture(tmp_path / "Flicker8k_Dataset" / "1000268201_693b08cb0e.jpg")
    lines = [f"1000268201_693b08cb0e.jpg#{number}\t{caption}" for number, caption in enumerate(FIVE)]
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "Flickr8k.token.txt").write_text("\n".join(lines))
    [photo], listing = listed(FolderSource(str(tmp_path)))
    assert photo.human_captions == FIVE
    assert listing.note is None


def test_flickr30k(tmp_path: Path) -> None:
    picture(tmp_path / "flickr30k-images" / "1000092795.jpg")
    (tmp_path / "results_20130124.token").write_text("1000092795.jpg#0\tTwo men, outside .\n1000092795.jpg#1\tMen .\n")
    assert only(tmp_path).human_captions == ("Two men, outside .", "Men .")


COCO = {
    "licenses": [
        {"id": 1, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"},
        {"id": 8, "name": "United States Government Work", "url": "http://www.usa.gov/copyright.shtml"},
    ],
    "images": [
        {
            "id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "license": 1, "date_captured": "2013-11-14",
            "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
            "coco_url": "http://images.cocodataset.org/val2014/COCO_val2014_000000391895.jpg",
        },
        {"id": 2, "file_name": "b.jpg", "license": 8, "coco_url": "http://images.cocodataset.org/val2014/b.jpg"},
        {"id": 3, "file_name": "gone.jpg", "license": 99},
        {"file_name": "without an id.jpg"},
    ],
    "annotations": [
        {"image_id": 391895, "id": 1, "caption": "A man with a red helmet, on a dirt road. "},
        {"image_id": 2, "id": 2, "caption": "A \"mill\"."},
        {"image_id": 391895, "id": 3, "caption": "Man riding a motor bike."},
        {"image_id": 391895, "id": 4, "caption": " "},
        {"image_id": 77, "id": 5, "caption": "of no picture"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("place", [".", "annotations"])
def test_coco(tmp_path: Path, place: str) -> None:
    for name in ("COCO_val2014_000000391895.jpg", "b.jpg"):
        picture(tmp_path / "images" / "val2014" / name)
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "captions_val2014.json").write_text(json.dumps(COCO))
    (a, b), listing = listed(FolderSource(str(tmp_path)))
    assert a.human_captions == ("A man with a red helmet, on a dirt road.", "Man riding a motor bike.")
    assert a.rights.license_url == "https://creativecommons.org/licenses/by/2.0/"
    assert (a.page_url, a.date_taken) == ("https://www.flickr.com/photo.gne?id=8119368305", None)
    assert a.raw and json.loads(a.raw) == COCO["images"][0]
    assert b.human_captions == ('A "mill".',)
    assert b.rights.license_name == "United States Government Work"
    assert b.rights.license_url == "http://rightsstatements.org/vocab/NoC-US/1.0/"
    assert b.page_url == "http://images.cocodataset.org/val2014/b.jpg"
    name = "captions_val2014.json" if place == "." else "annotations/captions_val2014.json"
    assert listing.note == (
        f"{name} names 1 files that are not there, such as gone.jpg and has 2 entries that cannot be read"
    )


@pytest.mark.parametrize("licences", [7, {"id": 1}, [{"id": [1]}, 3, {"id": 1, "name": ["x"], "url": {}}]])
def test_coco_with_licences_of_the_wrong_kind(tmp_path: Path, licences: object) -> None:
    picture(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "license": 1}
    told = {"licenses": licences, "images": [image], "annotations": [{"image_id": 1, "caption": "A mill"}]}
    (tmp_path / "captions.json").write_text(json.dumps(told))
    assert only(tmp_path).human_captions == ("A mill",)


def test_lists_in_lists_without_end(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    lines = [
        '{"file": "a.png", "title": "A"}',
        *(f'{{"file": "a.png", "tags": {"[" * n}{"]" * n}}}' for n in (5000, 10**6)),
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    [photo], listing = listed(FolderSource(str(tmp_path)))
    assert (photo.title, listing.note) == ("A", "captions.jsonl has 2 lines that cannot be read")


def test_a_sidecar_is_read_once_for_a_listing_and_not_to_miss_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "captions.json").write_text(json.dumps(COCO))
    read: list[str] = []
    ours = storage.read
    monkeypatch.setattr(storage, "read", lambda url: (read.append(url), ours(url))[1])
    source = FolderSource(str(tmp_path))
    listed(source)
    assert source.is_gone("file:b.png")
    assert read == [f"{tmp_path}/captions.json"]


@pytest.mark.parametrize("text", ["{oops", "[1]", '{"images": 1, "annotations": []}', "[" * 10**6])
def test_json_that_is_not_cocos(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "captions.json").write_text(text)
    (_, listing) = listed(FolderSource(str(tmp_path)))
    assert listing.note == "captions.json holds no captions as COCO has them"


# --- what pictures tell of themselves ---------------------------------------------------------------------------------


def iptc(**datasets: str) -> bytes:
    """Photoshop's block of a JPEG file (APP13) with IPTC datasets: `_5="title"` is 2:05."""
    records = b"\x1c\x01\x5a\x00\x03\x1b%G"
    for number, value in datasets.items():
        text = value.encode()
        records += b"\x1c\x02" + bytes([int(number[1:])]) + len(text).to_bytes(2, "big") + text
    block = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4, "big") + records + bytes(len(records) % 2)
    segment = b"Photoshop 3.0\0" + block
    return b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 xmlns:cc="http://creativecommons.org/ns#"><rdf:Description photoshop:DateCreated="1910-06">
 <dc:title><rdf:Alt><rdf:li xml:lang="x-default">XMP title</rdf:li></rdf:Alt></dc:title>
 <dc:creator><rdf:Seq><rdf:li>One</rdf:li><rdf:li>Two</rdf:li></rdf:Seq></dc:creator>
 <dc:subject><rdf:Bag><rdf:li>mill</rdf:li><rdf:li>river</rdf:li></rdf:Bag></dc:subject>
 <cc:license rdf:resource="http://creativecommons.org/licenses/by-sa/3.0/"/>
 </rdf:Description></rdf:RDF></x:xmpmeta>"""


def exif(**tags: object) -> Image.Exif:
    numbers = {"description": 0x010E, "artist": 0x013B, "copyright": 0x8298, "modified": 0x0132}
    made = Image.Exif()
    for name, value in tags.items():
        made[numbers[name]] = value
    return made


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_exif(tmp_path: Path, name: str) -> None:
    made = exif(description="A mill", artist="Vachon", copyright="Public domain", modified="2020:01:01 00:00:00")
    taken = {0x9003: "1999:12:31 23:59:58"}
    place = {1: "N", 2: (38.0, 53.0, 20.0), 3: "W", 4: (77.0, 0.0, 36.0)}
    if name.endswith("tif"):
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        directory.update({**made, 0x8769: taken, 0x8825: place})
        picture(tmp_path / name, tiffinfo=directory)
    else:
        made.get_ifd(0x8769).update(taken)
        made.get_ifd(0x8825).update(place)
        picture(tmp_path / name, exif=made)
    photo = only(tmp_path)
    assert (photo.title, photo.owner, photo.date_taken) == ("A mill", "Vachon", "1999-12-31 23:59:58")
    assert photo.rights.license_url == "https://creativecommons.org/publicdomain/mark/1.0/"
    assert (photo.latitude, photo.longitude) == pytest.approx((38.8889, -77.01), abs=1e-4)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_xmp(tmp_path: Path, name: str) -> None:
    if name.endswith("png"):
        told = PngImagePlugin.PngInfo()
        told.add_itxt("XML:com.adobe.xmp", XMP.decode())
        picture(tmp_path / name, pnginfo=told)
    elif name.endswith("tif"):
        picture(tmp_path / name, tiffinfo={700: XMP})
    else:
        picture(tmp_path / name, xmp=XMP)
    photo = only(tmp_path)
    assert (photo.title, photo.owner, photo.tags) == ("XMP title", "One; Two", ("mill", "river"))
    assert (photo.date_taken, photo.date_granularity) == ("1910-06", "month")
    assert photo.rights.license_url == "https://creativecommons.org/licenses/by-sa/3.0/"


def test_iptc(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", exif=exif(description="EXIF title", artist="EXIF artist"))
    data = path.read_bytes()
    path.write_bytes(data[:2] + iptc(_5="Café", _120="By a river", _25="mill", _55="19380512", _116="© Lee") + data[2:])
    photo = only(tmp_path)
    assert (photo.title, photo.description, photo.tags) == ("Café", "By a river", ("mill",))
    assert (photo.owner, photo.date_taken) == ("EXIF artist", "1938-05-12")  # what one leaves out another may know
    assert (photo.rights.license_name, photo.rights.license_url) == ("© Lee", None)


def test_files_beside_a_picture_are_believed_before_its_header(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", exif=exif(description="EXIF title", artist="Vachon"))
    (tmp_path / "captions.csv").write_text("file,title\na.jpg,Told\n")
    photo = only(tmp_path)
    assert (photo.title, photo.owner) == ("Told", "Vachon")


def test_what_cameras_write_by_themselves_is_no_title(tmp_path: Path) -> None:
    picture(tmp_path / "a_mill.jpg", exif=exif(description="OLYMPUS DIGITAL CAMERA"))
    assert only(tmp_path).title == "a mill"


@pytest.mark.parametrize("xmp", [b"<x:xmpmeta", b"\xff\xfe\0", XMP.replace(b"<x:", b"<!DOCTYPE x><x:", 1), b""])
def test_broken_headers_never_stop_a_listing(tmp_path: Path, xmp: bytes) -> None:
    picture(tmp_path / "a_mill.jpg", xmp=xmp)
    path = picture(tmp_path / "b_mill.jpg")
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1\x00\x20Exif\0\0II*\0\xff\xff\xff\xff" + bytes(14) + data[2:])
    (tmp_path / "c_mill.jpg").write_bytes(data[:30])
    (tmp_path / "d_mill.tif").write_bytes(b"II*\0\xff\xff\xff\xff" + bytes(40))
    photos, _ = listed(FolderSource(str(tmp_path)))
    assert [photo.title for photo in photos] == ["a mill", "b mill", "c mill", "d mill"]


@pytest.mark.parametrize(
    ("text", "date", "granularity"),
    [
        ("1938", "1938", "year"),
        ("1910-06", "1910-06", "month"),
        ("1910:06:03 14:05:09", "1910-06-03 14:05:09", "second"),
        ("1910-06-03T14:05:09.5+02:00", "1910-06-03 14:05:09", "second"),
        ("1910-06-03", "1910-06-03", "day"),
        ("1910-00-00", "1910", "year"),
        ("ca. 1900", "1900", "circa"),
        ("[1900?]", "1900", "circa"),
        ("June 1942", "1942", "year"),
        ("between 1900 and 1910", None, None),
        ("0000:00:00 00:00:00", None, None),
        ("undated", None, None),
        ("negative 12345", None, None),
        (None, None, None),
    ],
)
def test_dates(text: str | None, date: str | None, granularity: str | None) -> None:
    assert partial_date(text) == (date, granularity)


# --- real photographs -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not here")
def test_fsa_owi() -> None:
    photos, listing = listed(FolderSource(str(DATA / "fsa_owi")))
    assert listing == Listing(True, 50, 50, None)
    assert all(photo.title and photo.owner and photo.date_taken and photo.page_url for photo in photos)
    assert {photo.rights.license_url for photo in photos} == {"http://rightsstatements.org/vocab/NKC/1.0/"}
    assert {photo.rights.license_name for photo in photos} == {"No known restrictions (US government work)"}


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not here")
def test_nasty_files_are_all_listed() -> None:
    photos, listing = listed(FolderSource(str(DATA / "nasty")))
    files = {path.name for path in (DATA / "nasty").iterdir()} - {"manifest.jsonl"}
    assert {photo.photo_id.removeprefix("file:") for photo in photos} == files
    assert listing.complete


def test_a_picture_is_gone_with_its_file_and_not_with_its_disk(tmp_path: Path) -> None:
    root = tmp_path / "disk" / "scans"
    picture(root / "box" / "a.png")
    picture(root / "b.png")
    source = FolderSource(str(root), prefix="mine/")
    assert not source.is_gone("file:mine/box/a.png")
    (root / "box" / "a.png").unlink()
    assert source.is_gone("file:mine/box/a.png")
    assert not source.forgets(None)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no folder"):
        source.is_gone("file:mine/b.png")
