"""docs/cli.md is what the commands' own help says."""

from docs import make_cli


def test_the_page_is_up_to_date() -> None:
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page(), "run python docs/make_cli.py"


def test_every_option_says_what_it_does() -> None:
    silent = [
        f"{name} {parameter.opts[0]}"
        for name, command in make_cli.commands().items()
        for parameter in command.params
        if not parameter.help
    ]
    assert silent == []
