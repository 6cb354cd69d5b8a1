import pytest

from pipeline.photo import UserError
from pipeline.sources.flickr.address import (
    Address,
    Album,
    Gallery,
    Group,
    Photostream,
    SinglePhoto,
    parse_url,
    parse_user,
)
from pipeline.sources.flickr.search import Search

LOC = "library_of_congress"
HOME = f"https://www.flickr.com/photos/{LOC}"
STREAM, ALBUM, PHOTO = Photostream(LOC), Album(LOC, "72157603671370361"), SinglePhoto("2179931434")


@pytest.mark.parametrize(
    ("user", "album", "address"),
    [
        ("8623220@N02", None, Photostream("8623220@N02")),
        (LOC, None, STREAM),
        (f"{HOME}/", None, STREAM),
        (f"http://flickr.com/photos/{LOC}", None, STREAM),
        (f"www.flickr.com/people/{LOC}/", None, STREAM),
        (f"{HOME}/2179931434/in/photostream/", None, STREAM),
        ("https://www.flickr.com/photos/8623220@N02/page3", None, Photostream("8623220@N02")),
        ("https://www.flickr.com/photos/8623220%40N02/", None, Photostream("8623220@N02")),
        (LOC, "72157603671370361", ALBUM),
        (LOC, f"{HOME}/albums/72157603671370361/", ALBUM),
        (f"{HOME}/sets/72157603671370361", None, ALBUM),
        (f"{HOME}/albums/1", "2", Album(LOC, "2")),
    ],
)
def test_whatever_people_call_a_stream_or_album_is_understood(user: str, album: str | None, address: Address) -> None:
    assert parse_user(user, album) == address


@pytest.mark.parametrize(
    "user",
    [
        "",
        "two words",
        "https://example.org/photos/someone/",
        "https://www.flickr.com/explore",
        "https://www.flickr.com/photos/tags/windmill/",
        "https://www.flickr.com/groups/sailors/",
        "https://[flickr.com/photos/x/",
    ],
)
def test_what_names_no_user_is_refused_in_one_line(user: str) -> None:
    with pytest.raises(UserError, match="names no Flickr user") as refusal:
        parse_user(user, None)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("album", ["", "holidays", f"{HOME}/", "①②③"])
def test_what_names_no_album_is_refused(album: str) -> None:
    with pytest.raises(UserError, match="names no Flickr album"):
        parse_user(LOC, album)


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (f"photos/{LOC}", STREAM),
        (f"photos/{LOC}/", STREAM),
        (f"photos/{LOC}/page2/", STREAM),
        (f"photos/{LOC}/with/2179931434/", STREAM),
        (f"photos/{LOC}/page2?view=lg#main", STREAM),
        (f"people/{LOC}/", STREAM),
        ("photos/11588490@n02", Photostream("11588490@N02")),
        ("photos/11588490%40N02/", Photostream("11588490@N02")),
        (f"photos/{LOC}/albums/72157603671370361", ALBUM),
        (f"photos/{LOC}/sets/72157603671370361/", ALBUM),
        (f"photos/{LOC}/albums/72157603671370361/page3/", ALBUM),
        (f"photos/{LOC}/albums/72157603671370361/with/2179931434/", ALBUM),
        (f"photos/{LOC}/albums/with/72157603671370361", ALBUM),
        (f"photos/{LOC}/sets/72157603671370361/show", ALBUM),
        (f"photos/{LOC}/galleries/72157626831167487/", Gallery("72157626831167487")),
        (f"photos/{LOC}/gallery/72157626831167487/page2", Gallery("72157626831167487")),
        (f"photos/{LOC}/galleries/72157626831167487/#photo_2179931434", Gallery("72157626831167487")),
        ("groups/caffenol", Group("caffenol")),
        ("groups/33051635@N00/pool/", Group("33051635@N00")),
        ("groups/caffenol/pool/page30", Group("caffenol")),
        ("groups/caffenol/pool/with/2179931434/", Group("caffenol")),
        (f"photos/{LOC}/2179931434", PHOTO),
        (f"photos/{LOC}/2179931434/", PHOTO),
        (f"photos/{LOC}/2179931434/in/photostream/", PHOTO),
        (f"photos/{LOC}/2179931434/in/album-72157603671370361/", PHOTO),
        (f"photos/{LOC}/2179931434/in/photolist-RZufqg-ebEcP7-YvCkaU", PHOTO),
        (f"photos/{LOC}/2179931434/sizes/l/in/set-72157603671370361", PHOTO),
        (f"photos/{LOC}/2179931434/lightbox/?x=1#comment72157", PHOTO),
        ("photo.gne?id=2179931434", PHOTO),
        ("photos/tags/windmill/", Search(tags=("windmill",))),
        ("photos/tags/windmill/page2", Search(tags=("windmill",))),
        (f"photos/{LOC}/tags/newyork/", Search(tags=("newyork",), user=LOC)),
        ("search/?text=mini%20golf", Search(text="mini golf")),
        ("search?q=mini+golf&view_all=1&sort=relevance", Search(text="mini golf")),
        ("search/?tags=wind%2Csea&tag_mode=all", Search(tags=("wind", "sea"), tag_mode="all")),
        ("search/?user_id=8623220%40N02&text=train", Search(text="train", user="8623220@N02")),
        ("search/?group_id=33051635@N00&text=train", Search(text="train", group="33051635@N00")),
        (
            "search/?text=train&license=7%2C9%2C10&media=photos",
            Search(text="train", licenses=(7, 9, 10), media="photos"),
        ),
        ("search/?is_commons=1&advanced=1&media=all", Search(is_commons=True)),
        (
            "search/?text=train&min_upload_date=1577836800&max_upload_date=1580515199&utm_source=x",
            Search(text="train", min_upload_date="2020-01-01T00:00:00", max_upload_date="2020-01-31"),
        ),
        (
            "search/?text=train&max_taken_date=1580515199",
            Search(text="train", max_taken_date="2020-01-31"),
        ),
    ],
)
def test_every_way_to_write_an_address_leads_to_the_same_photos(path: str, address: Address) -> None:
    for before in (
        "https://www.",
        "http://www.",
        "https://",
        "http://",
        "https://m.",
        "HTTPS://WWW.",
        "//",
        "www.",
        "",
    ):
        written = parse_url(f" {before}Flickr.com/{path}\n")
        assert type(written) is type(address)
        assert written.name == address.name


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("https://flic.kr/p/2p4QbKN", "53208249252"),
        ("http://flic.kr/p/2p4QbKN/", "53208249252"),
        ("flic.kr/p/2p4QbKN?utm_source=x", "53208249252"),
        ("https://live.staticflickr.com/65535/53637883806_ff06bb5c65_b.jpg", "53637883806"),
        ("https://live.staticflickr.com/65535/50567413447_afec74ef45_o_d.jpg", "50567413447"),
        ("http://farm3.static.flickr.com/2388/2179931434_ab12ab12ab.jpg?zz=1", "2179931434"),
        ("https://c2.staticflickr.com/6/5647/21132240942_b545c17ce1_3k.jpg", "21132240942"),
    ],
)
def test_short_links_and_pictures_lead_to_their_photo(url: str, number: str) -> None:
    assert parse_url(url) == SinglePhoto(number)


@pytest.mark.parametrize(
    "url",
    [
        "https://www.flickr.com",
        "https://www.flickr.com/explore",
        "https://www.flickr.com/explore/2020/01/31",
        "https://www.flickr.com/map",
        "https://www.flickr.com/commons",
        "https://www.flickr.com/account/email",
        "https://www.flickr.com/gp/realphotomatt/M195SLkj98",
        "https://www.flickr.com/photos",
        "https://www.flickr.com/photos/tags",
        f"{HOME}/favorites",
        f"{HOME}/favorites/with/2179931434",
        f"{HOME}/albums",
        f"{HOME}/galleries/",
        f"{HOME}/collections/72157600000000000/",
        f"{HOME}/map",
        f"{HOME}/archives/date-posted/2020/",
        f"{HOME}/½⅓¼",
        f"{HOME}/sets/①②③",
        f"https://www.flickr.com/people/{LOC}/contacts/",
        "https://www.flickr.com/groups/",
        "https://www.flickr.com/groups/caffenol/discuss/72157600000000000/",
        "https://www.flickr.com/groups/caffenol/pool/someone/",
        "https://www.flickr.com/search/people/?q=x",
        "https://flic.kr/s/aHsjybZ5ZD",
        "https://flic.kr/p/0OIl",
        "https://flic.kr/p/",
        "https://live.staticflickr.com/65535/buddyicons/8623220@N02_r.jpg",
        "https://live.staticflickr.com/",
    ],
)
def test_what_leads_to_no_photos_is_told_which_addresses_do(url: str) -> None:
    with pytest.raises(
        UserError, match=r"leads to no photos.*a photostream, an album, a gallery, a group's pool"
    ) as line:
        parse_url(url)
    assert "\n" not in str(line.value)
    assert url in str(line.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "a b", "library_of_congress", "ftp://flickr.com/photos/x/", "http://[::1", "https://ﬂickr.com/photos/x"),
        *(
            "https://example.org/photos/x/",
            "https://notflickr.com/photos/x/",
            "https://flickr.com.example.org/photos/x/",
        ),
    ],
)
def test_what_is_not_on_flickr_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"no address on flickr\.com"):
        parse_url(url)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "must ask for something"),
        ("text=", "must ask for something"),
        ("media=photos&sort=relevance", "must ask for something"),
        ("text=train&orientation=landscape&color_codes=1", "color_codes, orientation"),
        ("text=train&media=screenshots", "media=screenshots"),
        ("text=train&license=free", "license=free"),
        ("text=train&min_upload_date=soon", "min_upload_date: 'soon'"),
        ("text=train&user_id=a%20b", "'a b' names no user"),
    ],
)
def test_a_search_that_cannot_be_asked_is_refused_in_one_line(query: str, told: str) -> None:
    with pytest.raises(UserError) as line:
        parse_url(f"https://www.flickr.com/search/?{query}")
    assert told in str(line.value)
    assert "\n" not in str(line.value)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (STREAM, "flickr:library_of_congress"),
        (ALBUM, "flickr:library_of_congress/72157603671370361"),
        (Gallery("1"), "flickr:galleries/1"),
        (Group("caffenol"), "flickr:groups/caffenol"),
        (PHOTO, "flickr:photos/2179931434"),
        (Search(text="mini golf", licenses=(9, 7, 9)), "flickr:search?license=7%2C9&text=mini+golf"),
    ],
)
def test_names_in_the_archive(address: Address, name: str) -> None:
    assert address.name == name
