"""The README's tree names what there is, and the commands that it and the runbook show are ones that parse."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from docs import make_cli
from pipeline import config
from pipeline.demo import server
from pipeline.training.settings import TrainSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = make_cli.commands()
TREES = ("pipeline", "jobs", "conf")


def commands() -> list[list[str]]:
    """The words of every line in the shell blocks of README and runbook."""
    text = README + (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [shlex.split(line.rstrip(" &")) for block in blocks for line in block.splitlines()]


def ours(words: list[str]) -> list[str] | None:
    """What a command gives to `tintype`, by whichever way; None where it is another program's."""
    if "--" in words:  # ray job submit … -- python -m jobs.run …
        words = words[words.index("--") + 1 :]
    if words[:1] == ["tintype"]:
        return words[1:]
    if words[:2] == ["python", "-m"] and words[2].startswith("jobs."):
        return [words[2].removeprefix("jobs."), *words[3:]]
    return None


OURS = [arguments for words in commands() if (arguments := ours(words))]


@pytest.mark.parametrize("arguments", OURS, ids=" ".join)
def test_every_command_parses(arguments: list[str]) -> None:
    name, *rest = arguments
    command = COMMANDS[f"tintype {name}"]
    given = command.context_class(command, info_name=name)
    command.parse_args(given, rest)
    conf = given.params.get("conf") or given.params.get("archive")
    if conf and conf.endswith(".yaml"):
        overrides = given.params.get("overrides") or []
        if name == "train":
            config.validated(TrainSettings, config.given(str(ROOT / conf), overrides), conf)
        else:
            config.load(str(ROOT / conf), overrides)


def test_jobs_and_commands_of_each_kind_are_shown() -> None:
    assert {"run", "search", "status", "describe", "models"} <= {arguments[0] for arguments in OURS}
    assert any(words[0] == "ray" and "jobs.run" in words for words in commands())


def test_the_demo_server_takes_what_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [words] = [words for words in commands() if "pipeline.demo.server" in words]
    monkeypatch.setattr("sys.argv", [*words[2:], "--help"])
    with pytest.raises(SystemExit) as ended:
        server.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in said] == []
    assert server.KEY in README
    assert server.SECRET in README


def tree() -> list[tuple[str, str]]:
    """(path, what is said of it) for each line of the README's tree; a folder's path ends in a slash."""
    block = re.search(r"^```text\n(pipeline/.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert block
    found: list[tuple[str, str]] = []
    folders: list[str] = []
    for line in block[1].splitlines():
        name, _, about = line.strip().partition(" ")
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        found.append(("".join(folders) + name, about.strip()))
        folders.append(name)
    return found


def test_the_tree_names_the_files_there_are() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: which files belong to it is not known")
    tracked = subprocess.run(["git", "ls-files", *TREES], cwd=ROOT, capture_output=True, text=True, check=True)
    # A folder's line stands for its __init__.py.
    files = {path for path in tracked.stdout.splitlines() if Path(path).name != "__init__.py"}
    named = {path for path, _ in tree() if not path.endswith("/")}
    assert named == files


def test_the_tree_says_something_of_each_file() -> None:
    data = (".json", ".safetensors")
    assert [path for path, about in tree() if not about and not path.endswith(data)] == []
