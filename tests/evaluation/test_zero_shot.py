"""Zero-shot evaluation: figures as one reckons them by hand, of folders and of CIFAR as torchvision reads it."""

import hashlib
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from pipeline.cli import main
from pipeline.demo.scenes import draw
from pipeline.evaluation import confusion, labelled, zero_shot
from pipeline.evaluation.printed import share
from pipeline.models import openclip
from pipeline.photo import UserError
from pipeline.training import pictures

DEMO = f"local-dir:{Path(__file__).parents[2] / 'pipeline' / 'demo' / 'model'}"
DOCUMENT = Path(__file__).parents[2] / "docs" / "tables.md"
EXAMPLES = re.findall(r"^```json\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
NAMES = ("boat", "hill", "tent")


def refused(data: str, names: tuple[str, ...] = ()) -> str:
    """The one line that a mistake is told in."""
    with pytest.raises(UserError) as raised:
        labelled.read(data, names)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- figures ----------------------------------------------------------------------------------------------------------

# Four boats, of which one is taken for a hill and one for a tent; five hills, of which one for a boat; a tent.
TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
GUESSED = np.array([0, 0, 1, 2, 1, 1, 1, 1, 0, 2])


def test_figures_are_those_reckoned_by_hand() -> None:
    said = zero_shot.figures(GUESSED[:, None], TRUTH, NAMES)
    assert (said["pictures"], said["classes"], said["top5"]) == (10, 3, None)
    assert said["top1"]["value"] == 0.7
    # Wilson's interval of 7 of 10.
    assert said["top1"]["low"] == pytest.approx(0.3968, abs=1e-4)
    assert said["top1"]["high"] == pytest.approx(0.8922, abs=1e-4)
    assert said["mean_recall"] == pytest.approx((2 / 4 + 4 / 5 + 1) / 3, abs=1e-6)
    figures = [[row[key] for key in ("class", "pictures", "right", "precision", "recall")] for row in said["per_class"]]
    assert figures == [["boat", 4, 2, 0.666667, 0.5], ["hill", 5, 4, 0.8, 0.8], ["tent", 1, 1, 0.5, 1.0]]
    assert [row["taken_for"] for row in said["per_class"]] == [
        {"class": "hill", "pictures": 1},
        {"class": "boat", "pictures": 1},
        None,
    ]
    assert [(cell["class"], cell["taken_for"], cell["pictures"]) for cell in said["confusion"]] == [
        ("boat", "hill", 1),
        ("boat", "tent", 1),
        ("hill", "boat", 1),
    ]
    names, shares = confusion.matrix(said)
    assert names == list(NAMES)
    assert np.array_equal(np.nan_to_num(shares), [[0.5, 0.25, 0.25], [0.2, 0.8, 0], [0, 0, 1]])


def test_a_class_without_pictures_and_one_never_guessed() -> None:
    said = zero_shot.figures(np.array([[0], [1]]), np.array([0, 0]), NAMES)
    assert [row["recall"] for row in said["per_class"]] == [0.5, None, None]
    assert [row["precision"] for row in said["per_class"]] == [1.0, 0.0, None]
    assert said["mean_recall"] == 0.5


def test_of_many_classes_the_confused_ones_are_drawn() -> None:
    names = [f"class {number}" for number in range(80)]
    truth = np.arange(80)
    guessed = np.where(truth < 20, truth + 40, truth)
    said = zero_shot.figures(np.stack([guessed, truth, truth, truth, truth], axis=1), truth, names)
    assert said["top1"]["value"] == 0.75 and said["top5"]["value"] == 1.0
    shown, shares = confusion.matrix(said)
    assert {*names[:20], *names[40:60]} <= set(shown) and shares.shape == (60, 60)
    assert "80 classes" in confusion.legend(said)
    right = zero_shot.figures(np.stack([truth] * 5, axis=1), truth, names)
    shown, shares = confusion.matrix(right)
    assert shown == names[:60] and np.array_equal(np.nan_to_num(shares), np.eye(60))


# --- pictures ---------------------------------------------------------------------------------------------------------


class Python2(pickle._Pickler):  # type: ignore[name-defined] # the one in Python, which lets itself be told how
    """Writes bytes as Python 2 wrote its strings, which is what CIFAR's files hold."""

    def save_bytes(self, held: bytes) -> None:
        self.write(b"T" + len(held).to_bytes(4, "little") + held)
        self.memoize(held)

    dispatch = pickle._Pickler.dispatch | {bytes: save_bytes}  # type: ignore[attr-defined]


def written(path: Path, held: Any) -> str:
    """Write a pickle as Python 2 did; its MD5."""
    file = io.BytesIO()
    Python2(file, protocol=2).dump(held)
    data = file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return hashlib.md5(data).hexdigest()


@pytest.mark.parametrize(("kind", "theirs"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_is_read_as_torchvision_reads_it(tmp_path: Path, kind: str, theirs: Any) -> None:
    folder, test, meta, labels, names = labelled.CIFAR[kind]
    dice = np.random.default_rng(0)
    classes = [f"class_{number}".encode() for number in range(int(kind.removeprefix("cifar")))]
    data = dice.integers(0, 256, (30, 3 * 32 * 32), np.uint8)
    truth = dice.integers(0, len(classes), 30).tolist()
    held = {b"data": data, labels.encode(): truth, b"filenames": [b"a.png"] * 30, b"coarse_labels": [0] * 30}
    marks = [written(tmp_path / folder / test, held), written(tmp_path / folder / meta, {names.encode(): classes})]

    class Theirs(theirs):  # type: ignore[misc]
        """Which knows what its files should be."""

        test_list = ((test, marks[0]),)
        train_list = ()
        meta = {"filename": labelled.CIFAR[kind][2], "key": names, "md5": marks[1]}  # noqa: RUF012

    expected = Theirs(str(tmp_path), train=False)
    for place in (tmp_path, tmp_path / folder):
        found = labelled.read(f"{kind}:{place}")
        assert list(found.names) == [name.replace("_", " ") for name in expected.classes]
        assert found.truth.tolist() == expected.targets == truth
        assert all(
            np.array_equal(ours, np.asarray(image)) for ours, (image, _) in zip(found.pictures, expected, strict=True)
        )

    some = labelled.read(f"{kind}:{tmp_path}", limit=10)
    assert len(some.pictures) == len(some.truth) == 10
    assert np.array_equal(some.truth, labelled.read(f"{kind}:{tmp_path}", limit=10).truth)


def test_a_pickle_that_would_do_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "done",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps({"data": Evil()}, protocol=2))
    assert "test_batch cannot be read as CIFAR's (it asks for" in refused(f"cifar10:{tmp_path}")
    assert not (tmp_path / "done").exists()
    for data in (b"", b"no pickle", pickle.dumps([1]), pickle.dumps({"data": np.zeros((1, 5), "f8")}, protocol=2)):
        (folder / "test_batch").write_bytes(data)
        assert "CIFAR's" in refused(f"cifar10:{tmp_path}")
    for name in ("test_batch", "batches.meta"):
        held = {"labels": [3], "data": np.zeros((1, 5), np.uint8), "label_names": ["a"]}
        (folder / name).write_bytes(pickle.dumps(held, protocol=2))
    assert "is not CIFAR10's" in refused(f"cifar10:{tmp_path}")
    assert "there is no cifar-100-python with test and meta" in refused(f"cifar100:{tmp_path}")


def test_a_damaged_pickle_is_one_line(tmp_path: Path) -> None:
    """Bytes changed and bytes cut off, but for those of the pixels: whatever comes of it is told in a line."""
    folder, dice = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    pixels = dice.integers(0, 256, (2, 3 * 32 * 32), np.uint8)
    written(folder / "batches.meta", {b"label_names": [b"a", b"b"]})
    written(folder / "test_batch", {b"labels": [0, 1], b"data": pixels})
    whole = (folder / "test_batch").read_bytes()
    told = [*range(whole.index(b"\xc2")), *range(len(whole) - 40, len(whole))]
    broken = 0
    for _ in range(1500):
        data = bytearray(whole)
        for place in dice.choice(told, dice.integers(1, 4)):
            data[place] = dice.integers(256)
        (folder / "test_batch").write_bytes(data[: dice.integers(len(data))] if dice.random() < 0.2 else data)
        try:
            labelled.read(f"cifar10:{tmp_path}")
        except UserError as error:
            broken += "\n" not in str(error)
    assert broken > 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unseen scenes of a single thing by what they show, among files that are no pictures."""
    folder = tmp_path_factory.mktemp("labelled")
    for scene in [scene for scene in pictures.unseen_scenes(60) if len(scene.things) == 1][:36]:
        path = folder / scene.things[0].kind.replace(" ", "_") / str(scene.seed % 3) / f"{scene.seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(scene, 160, 120).save(path, quality=90)
    (folder / "tent" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (folder / "tent" / "notes.txt").write_text("nothing to see")
    (folder / "tent" / ".hidden").write_text("")
    (folder / ".cache").mkdir()
    return folder


def test_a_folder_has_a_folder_for_each_class(folder: Path, tmp_path: Path) -> None:
    found = labelled.read(str(folder))
    assert "steam train" in found.names and list(found.names) == sorted(found.names)
    assert len(found.pictures) == 38
    shown = [found.names[number] for number in found.truth]
    assert shown == [Path(str(path)).relative_to(folder).parts[0].replace("_", " ") for path in found.pictures]

    names = (*(f"{name.replace(' ', '_')}\tone {name}" for name in reversed(found.names)), "kite")
    told = labelled.read(str(folder), names)
    assert told.names == (*(f"one {name}" for name in reversed(found.names)), "kite")
    assert [told.names[number] for number in told.truth] == [f"one {name}" for name in shown]

    assert f"--classes names no {found.names[0]!r}" in refused(str(folder), names[:1])
    assert "--classes names 'kite' more than once" in refused(str(folder), (*names, "kite\tred kite"))
    assert "there is no folder" in refused(str(tmp_path / "none"))
    assert "holds no pictures in folders" in refused(str(tmp_path))


def test_the_command_says_what_ten_lines_of_numpy_say(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [str(tmp_path / name) for name in ("page.html", "picture.png")]
    given = ["evaluate", "--zero-shot", str(folder), "--model", DEMO, "--template", "a {}", "--template", "{} at sea"]
    assert main([*given, "--json", "--html", made[0], "--png", made[1]]) == 0
    said = json.loads(capsys.readouterr().out)

    model = openclip.load(DEMO, None, precision="fp32")
    found = labelled.read(str(folder))
    usable = [
        row for row, path in enumerate(found.pictures) if str(path).endswith(".jpg") and "broken" not in str(path)
    ]
    pixels = [model.preprocess(Image.open(str(found.pictures[row])).convert("RGB")) for row in usable]
    texts = [model.embed_texts([f"a {name}", f"{name} at sea"]).mean(axis=0) for name in found.names]
    cosines = model.embed_images(np.stack(pixels)) @ np.stack([text / np.linalg.norm(text) for text in texts]).T
    assert said["top1"]["value"] == pytest.approx(np.mean(cosines.argmax(axis=1) == found.truth[usable]), abs=1e-6)
    best = np.argsort(-cosines, axis=1)[:, :5]
    assert said["top5"]["value"] == pytest.approx(np.mean((best == found.truth[usable, None]).any(axis=1)), abs=1e-6)
    assert said["top1"]["value"] >= 0.9

    [example] = [json.loads(code) for code in EXAMPLES if '"top1"' in code]
    assert list(said) == list(example)
    assert all(list(row) == list(example["per_class"][0]) for row in said["per_class"])
    assert list(zero_shot.figures(GUESSED[:, None], TRUTH, NAMES)["confusion"][0]) == list(example["confusion"][0])
    assert said["unusable"] == {"truncated": 1, "not_an_image": 1}
    assert (said["pictures"], said["templates"]) == (36, ["a {}", "{} at sea"])
    page = Path(made[0]).read_text()
    assert "Zero-shot: " in page and page.count("<th scope=row>") == said["classes"] and "<svg" in page
    assert Image.open(made[1]).format == "PNG"

    assert main(given) == 0
    printed = capsys.readouterr().out
    assert f"36 pictures, {said['classes']} classes, by local-dir:model; 2 files unusable" in printed
    assert f"top 1 {share(said['top1'])}" in printed


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--zero-shot", "."], "which model?"),
        (["--zero-shot", ".", "--model", DEMO, "--where", "true"], "--where goes without --zero-shot"),
        (["archive", "--template", "a {}"], "--template goes with --zero-shot"),
        (["--zero-shot", ".", "--model", DEMO, "--template", "a boat"], "must hold {} for the class"),
        ([], "evaluate what?"),
        (["--zero-shot", ""], "names nothing"),
        (["--zero-shot", ".", "--where", ""], "--where goes without --zero-shot"),
        (["archive", "--zero-shot", ".", "--pretrained", "x"], "--pretrained x goes with --model"),
        (["archive", "--zero-shot", ".", "--model", DEMO], "ARCHIVE and --model each name a model"),
        (["--zero-shot", ".", "--model", DEMO, "--of", "a"], "--of and --model each name a model"),
        (["archive", "--zero-shot", ".", "--of", "a", "--of", "b"], "give --of once"),
        (["--zero-shot", "nowhere", "--model", "no-such-model"], "there is no folder nowhere"),
        (["--zero-shot", ".", "--model", "no-such-model", "--template", "x"], "must hold {} for the class"),
    ],
)
def test_mistakes_are_one_line(
    given: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert main(["evaluate", *given]) == 2
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1 and not said.out
