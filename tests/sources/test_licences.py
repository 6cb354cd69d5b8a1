"""A licence is recognised only where a text plainly names one."""

import pytest

from pipeline.sources.licences import CC0, FLICKR_LICENCES, NO_KNOWN_COPYRIGHT, PUBLIC_DOMAIN_MARK, recognise


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("No known restrictions (US government work)", NO_KNOWN_COPYRIGHT),
        ("No known copyright restrictions.", NO_KNOWN_COPYRIGHT),
        ("CC0 1.0", CC0),
        ("Public domain", PUBLIC_DOMAIN_MARK),
        ("CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
        ("cc-by-nc-nd-2.0", "https://creativecommons.org/licenses/by-nc-nd/2.0/"),
        (
            "Creative Commons Attribution-NonCommercial-ShareAlike 3.0 Unported",
            "https://creativecommons.org/licenses/by-nc-sa/3.0/",
        ),
        ("Creative Commons Attribution License 4.0", "https://creativecommons.org/licenses/by/4.0/"),
        ("see http://creativecommons.org/licenses/by/4.0/deed.de", "https://creativecommons.org/licenses/by/4.0/"),
        ("In Copyright", "http://rightsstatements.org/vocab/InC/1.0/"),
        ("© 1998 A. Person", None),
        ("All rights reserved", None),
        ("not in the public domain", None),
        ("CC BY", None),  # which version?
        ("CC BY-SA-ND 4.0", None),  # there is no such licence
        ("picture CC BY 4.0, catalogue CC0", None),
        ("http://creativecommons.org/licenses/by/4.0/ or http://creativecommons.org/licenses/by-sa/4.0/", None),
    ],
)
def test_words(text: str, url: str | None) -> None:
    assert recognise(text) == (text, url)


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("http://creativecommons.org/licenses/by/2.0", "CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/"),
        (
            "https://creativecommons.org/licenses/by/3.0/us/",
            "CC BY 3.0 US",
            "https://creativecommons.org/licenses/by/3.0/us/",
        ),
        (
            "https://rightsstatements.org/page/inc-edu/1.0/?language=en",
            "In Copyright - Educational Use Permitted",
            "http://rightsstatements.org/vocab/InC-EDU/1.0/",
        ),
        (
            "https://www.flickr.com/commons/usage/",
            "No known copyright restrictions",
            "https://www.flickr.com/commons/usage/",
        ),
        ("https://example.org/terms", "https://example.org/terms", None),
    ],
)
def test_addresses(text: str, name: str, url: str | None) -> None:
    assert recognise(text) == (name, url)


def test_flickr_names_mean_what_their_ids_mean() -> None:
    for licence_id, (name, url) in FLICKR_LICENCES.items():
        if licence_id != "7":  # in Flickr's mouth these words mean its Commons
            assert recognise(name)[1] == url, name
