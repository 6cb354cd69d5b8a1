import pytest

from pipeline.photo import UserError
from pipeline.sources.flickr.address import Address, parse_address

LOC = "library_of_congress"


@pytest.mark.parametrize(
    ("user", "album", "address"),
    [
        ("8623220@N02", None, Address("8623220@N02", None)),
        (LOC, None, Address(LOC, None)),
        (f"https://www.flickr.com/photos/{LOC}/", None, Address(LOC, None)),
        (f"http://flickr.com/photos/{LOC}", None, Address(LOC, None)),
        (f"www.flickr.com/people/{LOC}/", None, Address(LOC, None)),
        (f"https://www.flickr.com/photos/{LOC}/2179931434/in/photostream/", None, Address(LOC, None)),
        ("https://www.flickr.com/photos/8623220@N02/page3", None, Address("8623220@N02", None)),
        (LOC, "72157603671370361", Address(LOC, "72157603671370361")),
        (LOC, f"https://www.flickr.com/photos/{LOC}/albums/72157603671370361/", Address(LOC, "72157603671370361")),
        (f"https://www.flickr.com/photos/{LOC}/sets/72157603671370361", None, Address(LOC, "72157603671370361")),
        (f"https://www.flickr.com/photos/{LOC}/albums/1", "2", Address(LOC, "2")),
    ],
)
def test_whatever_people_call_a_stream_or_album_is_understood(user: str, album: str | None, address: Address) -> None:
    assert parse_address(user, album) == address


@pytest.mark.parametrize(
    "user", ["", "two words", "https://example.org/photos/someone/", "https://www.flickr.com/explore"]
)
def test_what_names_no_user_is_refused_in_one_line(user: str) -> None:
    with pytest.raises(UserError, match="names no Flickr user") as refusal:
        parse_address(user, None)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("album", ["", "holidays", f"https://www.flickr.com/photos/{LOC}/"])
def test_what_names_no_album_is_refused(album: str) -> None:
    with pytest.raises(UserError, match="names no Flickr album"):
        parse_address(LOC, album)


def test_an_nsid_is_told_from_an_alias() -> None:
    assert parse_address("8623220@N02", None).is_nsid
    assert not parse_address(LOC, None).is_nsid
    assert parse_address(LOC, None).url == "https://www.flickr.com/photos/library_of_congress/"
