"""Which texts photos have, which of them are the same, and which titles say nothing."""

import numpy as np
import pytest

from pipeline.evaluation.texts import gather, own_text, says_nothing


def photo(photo_id: str, title: str | None, *captions: str) -> dict[str, object]:
    return {"photo_id": photo_id, "title": title, "human_captions": list(captions) or None}


@pytest.mark.parametrize(
    ("title", "why"),
    [
        (None, "empty"), ("  ", "empty"),
        ("IMG_1234", "file name"), ("DSC00012.JPG", "file name"), ("scan 007", "file name"),
        ("1911-06-03 (2)", "file name"),
        ("LC-DIG-ggbain-12345.tif", "file name"), ("Untitled", "file name"), ("P1010023", "file name"),
        ("A mill", None), ("Photo of a mill", None), ("Scandinavia", None), ("Wright Bros.", None), ("東京", None),
    ],
)  # fmt: skip
def test_titles_that_say_nothing(title: str | None, why: str | None) -> None:
    assert says_nothing(title, "flickr:1") == why


def test_the_name_of_a_folders_file_is_no_title() -> None:
    assert says_nothing("1000268201 693b08cb0e", "file:Images/1000268201_693b08cb0e.jpg") == "file name"
    assert says_nothing("A mill", "file:Images/1000268201_693b08cb0e.jpg") is None


def test_texts_that_differ_in_case_and_space_are_one() -> None:
    photos = [photo("a", " A  Mill"), photo("b", "a mill"), photo("c", "IMG_1"), photo("d", None), photo("e", "A boat")]
    texts = gather(photos)
    assert (texts.kind, texts.texts, texts.left_out) == ("titles", ["A Mill", "A boat"], {"file name": 1, "empty": 1})
    assert np.array_equal(texts.pairs, [(0, 0), (0, 1), (1, 4)])
    assert (texts.shared, texts.photos) == (1, 3)


def test_captions_come_before_titles() -> None:
    photos = [photo("a", "A mill", "one", "two", "One", " "), photo("b", "A boat")]
    texts = gather(photos)
    assert (texts.kind, texts.texts, texts.pairs.tolist()) == ("captions", ["one", "two"], [[0, 0], [1, 0]])
    assert gather(photos, "titles").texts == ["A mill", "A boat"]
    assert [own_text(one) for one in photos] == ["one", "A boat"]
    assert not gather(photos[1:], "captions").texts
