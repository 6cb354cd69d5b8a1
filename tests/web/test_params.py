"""What a search's address says, and that it is said back alike."""

from urllib.parse import parse_qsl

import pytest

from pipeline.photo import UserError
from pipeline.search import Query
from pipeline.web.params import Params


def test_what_is_not_said_is_the_default_and_not_in_the_address() -> None:
    assert Params.parse({"q": "", "k": " ", "utm_source": "x"}) == Params()
    assert Params().address() == "" and not Params().asks
    assert Params.parse({"q": " a boat ", "k": "24", "mode": "vector"}).address() == "q=a+boat"


def test_an_address_says_all_of_a_search() -> None:
    given = {"q": "a & b", "plus": "blue", "scale": "2.50", "after": "1910-06", "license": "none", "tag": "Zoë's"}
    params = Params.parse(given | {"where": "row_id > 3 -- all", "k": "100", "mode": "hybrid", "collapse": "on"})
    again = Params.parse(dict(parse_qsl(params.address())))
    assert again == params and again.address() == params.address() and params.collapse and params.scale == 2.5


def test_filters_are_joined_and_texts_in_them_are_only_texts() -> None:
    params = Params.parse({"q": "a", "tag": "x' OR 'a'='a", "license": "none", "where": "k > 1 --"})
    licence = "coalesce(license_url, license_name) IS NULL"
    assert params.query() == Query(
        "a",
        where=f"{licence} AND list_contains(tags, 'x'' OR ''a''=''a') AND (k > 1 --\n)",
        k=24,
    )
    assert Params.parse({"q": "a", "where": "k > 1"}).query().where == "k > 1"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"k": "0"}, "from 1 to 100"),
        ({"k": "²"}, "from 1 to 100"),
        ({"k": "9" * 90}, "from 1 to 100"),
        ({"scale": "nan"}, "from 0 to 5"),
        ({"scale": "5.1"}, "from 0 to 5"),
        ({"after": "1910-6"}, "write a date"),
        ({"after": "1910-13"}, "write a date"),
        ({"before": "1910-02-30"}, "write a date"),
        ({"before": "١٩١٠"}, "write a date"),
        ({"mode": "image"}, "vector, hybrid, words"),
        ({"collapse": "maybe"}, "true or false"),
        ({"q": "a\0b"}, "no text"),
        ({"q": "a" * 1001}, "longer than 1,000"),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Params.parse(given)


def test_what_makes_no_sense_is_said() -> None:
    for given in (
        {},
        {"q": "a", "image": "b"},
        {"image": "b", "mode": "words"},
        {"q": "a", "plus": "b", "mode": "words"},
    ):
        with pytest.raises(UserError, match=r"either words|has no words|arithmetic"):
            Params.parse(given).query()
