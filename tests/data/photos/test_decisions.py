"""Decisions about photos: dropped and relabeled without touching a file, and without computing anything anew."""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import FAST, QUIET, TINY, Run, draw_photo, draw_root
from interrupted_runs import outcome, run
from lightning_fabric import Fabric

from dogscats import Backbone, Classifier, DogsCatsDataModule, Predictor
from dogscats.base.errors import UserError
from dogscats.base.files import read_csv, write_csv
from dogscats.data.loading.class_weights import class_weights
from dogscats.data.photos.layouts import Photos
from dogscats.lesson import activations
from dogscats.lesson.activations import Activations
from dogscats.runs.compose import accepted

HEADER = "path,decision,label"
SOME = [HEADER, "train/dogs/dog.9.jpg,drop,", "valid/cats/cat.1.jpg,DROP,", "train/cats/cat.3.jpg, Relabel ,dogs"]
"""Two dropped and one relabeled."""


def decisions(folder: Path, *lines: str, name: str = "decisions.csv") -> Path:
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def module(root: Path, file: Path | None = None, **settings: object) -> DogsCatsDataModule:
    settings = {"size": 24, "batch_size": 5, "num_workers": 0, **settings}
    return DogsCatsDataModule(root, decisions=file and str(file), **settings)  # type: ignore[arg-type]


def ready(root: Path, file: Path | None = None, **settings: object) -> DogsCatsDataModule:
    data = module(root, file, **settings)
    data.prepare_data()
    data.setup()
    return data


def pairs(photos: Photos | None) -> list[tuple[str, int]]:
    assert photos is not None
    return list(zip(photos.paths, photos.labels, strict=True))


def test_photos_are_dropped_and_relabeled_in_place_and_no_file_is_touched(root: Path, tmp_path: Path) -> None:
    for number in range(3):
        draw_photo(root / "test" / "cats" / f"{number}.jpg", 0, number)
        draw_photo(root / "test" / "dogs" / f"{number}.jpg", 1, number)
    plain = ready(root)
    before = {path: path.stat() for path in root.rglob("*.jpg")}
    more = ["test/dogs/2.jpg,drop,", "test/cats/0.jpg,relabel,dogs", "train/cats/cat.0.jpg,keep,cats"]
    data = ready(root, decisions(tmp_path, *SOME, *more, "train/cats/cat.1.jpg,relabel,cats"))
    assert pairs(data.train) == [
        (path, 1 if path.endswith("cat.3.jpg") else label)
        for path, label in pairs(plain.train)
        if not path.endswith("dog.9.jpg")
    ]
    assert pairs(data.valid) == [pair for pair in pairs(plain.valid) if pair[0] != "valid/cats/cat.1.jpg"]
    assert pairs(data.test) == [("test/cats/0.jpg", 1), *pairs(plain.test)[1:-1]]
    name = tmp_path / "decisions.csv"
    counts = "3 photos dropped (train 1, valid 1, test 1), 2 relabeled (train 1, test 1)"
    applied = len(SOME) + len(more)  # with the heading, and one more
    assert data.decided == f"{name}: {counts}. {applied} of {applied} decisions apply"
    assert plain.decided == ""
    assert "23 training and 9 validation photos" in data.summary
    assert data.left_out == plain.left_out == ""
    assert class_weights("balanced", data.classes, data.train.labels) == pytest.approx([23 / 22, 23 / 24])
    after = {path: path.stat() for path in root.rglob("*.jpg")}
    assert [(path, status.st_mtime_ns, status.st_ino) for path, status in before.items()] == [
        (path, status.st_mtime_ns, status.st_ino) for path, status in after.items()
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, "train/cats/cat.0.jpg,remove,"], "line 2: its decision is 'remove', expected keep, drop, relabel"),
        ([HEADER, "train/cats/cat.0.jpg"], "line 2: its decision is '', expected"),
        ([HEADER, ",drop,"], "line 2: it has no path"),
        ([HEADER, "train/cats/cat.0.jpg,relabel,"], "line 2: it has no label. Fill in the new class"),
        (["path,decision", "train/cats/cat.0.jpg,relabel"], "line 2: it has no label"),
        ([HEADER, "train/cats/cat.0.jpg,relabel,wolves"], "line 2: its label is 'wolves', expected one of cats, dogs"),
        ([HEADER, "train/cats/cat.0.jpg,keep,dogs"], "line 2: it keeps a photo of 'cats', but its label is 'dogs'"),
        ([HEADER, "train/cats/cat.0.jpg,drop,,x"], "line 2: it has 4 columns, but the header has 3"),
        (["x,decision", "train/cats/cat.0.jpg,drop"], "no column for the path. Its columns are x, decision"),
        (["path,label", "train/cats/cat.0.jpg,dogs"], "no column for the decision"),
        (
            [HEADER, *(f"train/cats/{letter}.jpg,drop," for letter in "abcdefg"), "train/cats/cat.0.jpg,drop,"],
            r"7 of 8 decisions are about photos that the dataset does not have: line 2 'train/cats/a\.jpg', "
            r"line 3 .*, line 6 'train/cats/e\.jpg', \.\.\. \(7 in all\)\. Correct the paths",
        ),
        ([HEADER, "test1/1.jpg,drop,"], r"1 of 1 decision .*line 2 'test1/1\.jpg'"),  # unlabelled
        (
            [HEADER, "train/cats/cat.0.jpg,drop,", "train\\cats\\cat.0.jpg,relabel,dogs"],
            "line 3: it says relabel 'dogs', but line 2 says drop for the same photo",
        ),
        (
            [HEADER, "train/cats/cat.0.jpg,keep,", "train/cats/cat.0.jpg,drop,"],
            "line 3: it says drop, but line 2 says keep",
        ),
        (
            [HEADER, *(f"valid/dogs/dog.{number}.jpg,drop," for number in range(5))],
            "no photo of class 'dogs' in valid is left",
        ),
        (
            [HEADER, *(f"train/cats/cat.{number}.jpg,relabel,dogs" for number in range(12))],
            "no photo of class 'cats' in train is left",
        ),
        (
            [HEADER, *(f"train/{name}s/{name}.{number}.jpg,drop," for number in range(12) for name in ("cat", "dog"))],
            "no photo of train is left",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_mistakes_are_refused_before_photos_are_decoded(
    shared_root: Path, tmp_path: Path, lines: Sequence[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        module(shared_root, decisions(tmp_path, *lines)).prepare_data()
    assert str(raised.value).startswith(str(tmp_path / "decisions.csv"))


def test_a_file_that_is_missing_or_no_text_is_named(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_command("train.py", f"data.root={shared_root}", "data.decisions=none.csv", *FAST)
    assert result.returncode == 1
    assert result.stderr.startswith("error: data.decisions=none.csv: there is no such file. Give a CSV file with")
    assert "Traceback" not in result.stderr
    with pytest.raises(UserError, match="decisions=: expected a file"):
        DogsCatsDataModule(shared_root, decisions="")
    (tmp_path / "d.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(UserError, match=r"d\.xlsx: it is not text in UTF-8 .*Save it as CSV"):
        module(shared_root, tmp_path / "d.xlsx").prepare_data()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath;decision;label\r\ntrain/dogs/dog.9.jpg;drop;\r\ntrain/cats/cat.3.jpg;relabel;dogs\r\n",
        "sep=;\nPath;Decision;Label;reason\ntrain/dogs/dog.9.jpg;Drop;dogs;blurred\ntrain/cats/cat.3.jpg;relabel;dogs;\n",
        "label,decision,path\n,drop,train\\dogs\\dog.9.jpg\n\n,drop,train/dogs/dog.9.jpg\ndogs,relabel,train/cats/cat.3.jpg\n",
        "path\tdecision\tlabel\ntrain/dogs/dog.9.jpg\tdrop\ntrain/cats/cat.3.jpg\tRELABEL\tdogs\n",
    ],
    ids=["BOM and semicolons", "sep", "other order, backslashes, twice", "tabs, a missing cell"],
)
def test_files_of_spreadsheets_and_written_by_hand(shared_root: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "decisions.csv"
    file.write_bytes(text.encode())
    data = ready(shared_root, file)
    assert len(data.train.paths) == 23
    assert dict(pairs(data.train))["train/cats/cat.3.jpg"] == 1


def test_names_like_formulas_are_those_that_this_project_writes(tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos", train=4, valid=2, classes=("=cats", "dogs"))
    for folder in (root / "train", root / "valid"):
        for path in (folder / "=cats").iterdir():
            path.rename(path.with_name(path.name.replace("=", "-")))
    shutil.move(root / "train" / "=cats", root / "=cats")
    shutil.move(root / "train" / "dogs", root / "dogs")
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "valid")
    rows = [("=cats/-cat.0.jpg", "drop", ""), ("dogs/dog.3.jpg", "relabel", "=cats")]
    write_csv(tmp_path / "decisions.csv", HEADER.split(","), rows)
    assert "'=cats/-cat.0.jpg" in (tmp_path / "decisions.csv").read_text()
    data = ready(root, tmp_path / "decisions.csv")
    both = dict(pairs(data.train) + pairs(data.valid))
    assert "=cats/-cat.0.jpg" not in both
    assert both["dogs/dog.3.jpg"] == 0
    write_csv(tmp_path / "decisions.csv", HEADER.split(","), [("=cats/-cat.3.jpg", "drop", "")])
    decided = ready(root, tmp_path / "decisions.csv", limit=2).decided
    assert "0 photos dropped" in decided
    assert decided.endswith("0 relabeled. 0 of 1 decisions apply; 1 is about photos that data.limit leaves out")


@pytest.mark.parametrize("settings", [{"valid_fraction": 0.3}, {"limit": 4}, {"group": r"\.(\d)\d*\.jpg"}])
def test_splits_and_limit_are_as_without_decisions(tmp_path: Path, settings: dict[str, object]) -> None:
    root = draw_root(tmp_path / "photos", train=12, valid=1)
    shutil.rmtree(root / "valid")
    plain = ready(root, **settings)
    lines = [f"train/cats/cat.{number}.jpg,drop," for number in (0, 2, 11)]
    data = ready(root, decisions(tmp_path, HEADER, *lines, "train/dogs/dog.1.jpg,relabel,cats"), **settings)
    for ours, theirs in ((data.train, plain.train), (data.valid, plain.valid)):
        assert ours.paths == [path for path in theirs.paths if f"{path},drop," not in lines]
    assert data.classes == plain.classes


def test_an_unreadable_photo_that_is_dropped_stops_nothing(root: Path, tmp_path: Path) -> None:
    (root / "train" / "dogs" / "dog.9.jpg").write_bytes(b"no photo")
    (root / "train" / "dogs" / "dog.8.jpg").write_bytes(b"no photo")
    dropped = "train/dogs/dog.9.jpg,drop,"
    with pytest.raises(UserError, match="1 photo cannot be read") as raised:
        ready(root, decisions(tmp_path, HEADER, dropped))
    assert "dog.8.jpg" in str(raised.value)
    assert "dog.9.jpg" not in str(raised.value)
    skipping = ready(root, decisions(tmp_path, HEADER, dropped, "train/cats/cat.0.jpg,drop,"), on_bad_image="skip")
    assert list(skipping.bad) == ["train/dogs/dog.8.jpg"]
    assert len(skipping.train.paths) == 21
    both = ready(root, decisions(tmp_path, HEADER, dropped, "train/dogs/dog.8.jpg,drop,"))
    assert not both.bad
    assert len(both.train.paths) == 22


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each array of activations that was computed."""
    found: list[str] = []
    features = activations._features

    def counting(*arguments: object) -> object:
        found.append("computed")
        return features(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(activations, "_features", counting)
    return found


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("first", ["without", "with"])
def test_cached_activations_are_shared(
    shared_root: Path, tmp_path: Path, tiny_body: Backbone, computed: list[str], views: int, first: str
) -> None:
    fabric, classifier = Fabric(accelerator="cpu", devices=1), Classifier(tiny_body, ["cats", "dogs"])
    plain, data = ready(shared_root), ready(shared_root, decisions(tmp_path, *SOME))

    def loaders(data: DogsCatsDataModule) -> tuple[Activations, list[object]]:
        cached = Activations(classifier, data, fabric, str(tmp_path / "cache"), views)
        return cached, [cached.train_loader("s").dataset, cached.valid_loader().dataset]

    both = [loaders(each)[1] for each in ((plain, data) if first == "without" else (data, plain))]
    assert len(computed) == (views or 1) + 1
    (all_train, all_valid), (train, valid) = both if first == "without" else both[::-1]
    for whole, part, photos in ((all_train, train, data.train), (all_valid, valid, data.valid)):
        assert len(part) == len(photos.paths) < len(whole)  # type: ignore[arg-type]
        assert part.photos is photos  # type: ignore[attr-defined]
        for index, path in enumerate(photos.paths):
            row = list(whole.photos.paths).index(path)  # type: ignore[attr-defined]
            for ours, theirs in zip(part.views, whole.views, strict=True):  # type: ignore[attr-defined]
                assert torch.equal(ours[part.rows[index]], theirs[row])  # type: ignore[attr-defined]
        batch = part[[(index, 0) for index in range(len(photos.paths))]]  # type: ignore[index]
        assert batch.labels.tolist() == list(photos.labels)


def test_photos_that_a_data_module_of_ones_own_chooses(
    shared_root: Path, tmp_path: Path, tiny_body: Backbone, computed: list[str]
) -> None:
    class Odd(DogsCatsDataModule):
        def __init__(self, root: Path, decisions: str | None = None):
            super().__init__(root, 24, 5, num_workers=0, decisions=decisions)

        def setup(self, stage: str | None = None) -> None:
            if not hasattr(self, "train"):
                super().setup(stage)
                odd = slice(1, None, 2)
                self.train = replace(self.train, paths=self.train.paths[odd], labels=self.train.labels[odd])

    classifier = Classifier(tiny_body, ["cats", "dogs"])
    for file in (None, decisions(tmp_path, *SOME)):
        data = Odd(shared_root, file and str(file))
        data.setup()
        cached = Activations(classifier, data, Fabric(accelerator="cpu", devices=1), str(tmp_path / "cache"))
        batch = cached.train_loader("s").dataset[[(index, 0) for index in range(len(data.train.paths))]]
        images = torch.stack([data.train_dataset("s", augment=False)[index, 0][0] for index in batch.indices])
        with torch.no_grad():
            torch.testing.assert_close(batch.inputs, tiny_body.eval()(images), rtol=1e-5, atol=1e-6)


def test_a_data_module_without_the_argument_does_without() -> None:
    node = {"_target_": "dogscats.Backbone", "decisions": None}
    assert accepted(node, "data", ("decisions",)) == {"_target_": "dogscats.Backbone"}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
def test_a_run_is_as_on_a_table_with_the_photos_removed_and_relabeled(run_command: Run, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    rows = {}
    for label, name in enumerate("ab"):
        for number in range(12):
            draw_photo(root / f"{name}{number:02d}.jpg", label, number)
            rows[f"{name}{number:02d}.jpg"] = (name, "valid" if number < 4 else "train")
    write_csv(root / "labels.csv", ["path", "label", "split"], [(path, *row) for path, row in rows.items()])
    decisions(tmp_path, HEADER, "a05.jpg,drop,", "b10.jpg,drop,", "b03.jpg,drop,", "a11.jpg,relabel,b")
    for path in ("a05.jpg", "b10.jpg", "b03.jpg"):
        del rows[path]
    rows["a11.jpg"] = ("b", "train")  # the last of its class becomes the first of the next: the order stays
    write_csv(root / "edited.csv", ["path", "label", "split"], [(path, *row) for path, row in rows.items()])
    recipe = ["~recipe.precompute", "recipe.finetune.cycles=1", "recipe.augmented.cycles=1", "callbacks.reports=null"]
    settings = [f"data.root={root}", *TINY, *recipe, "callbacks.lr_finder.before=none", "class_weights=balanced"]
    result = run_command(
        "train.py", *settings, "data.labels=labels.csv", "data.decisions=decisions.csv", "hydra.run.dir=run"
    )
    assert result.returncode == 0, result.stderr
    assert "Decisions decisions.csv: 3 photos dropped (train 2, valid 1), 1 relabeled (train 1)" in result.stdout
    assert f"decisions: {tmp_path / 'decisions.csv'}" in (tmp_path / "run" / "config.yaml").read_text()
    assert (tmp_path / "run" / "decisions.csv").read_bytes() == (tmp_path / "decisions.csv").read_bytes()
    other = run_command("train.py", *settings, "data.labels=edited.csv", "hydra.run.dir=edited")
    assert other.returncode == 0, other.stderr
    for name in ("photos.csv", "predictions_valid.csv", "lr_trace.csv"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "edited" / name).read_text()
    assert {"path": "a11.jpg", "label": "b"}.items() <= next(
        row.items() for row in read_csv(tmp_path / "run" / "photos.csv") if row["path"] == "a11.jpg"
    )
    for ours, theirs in zip(weights(tmp_path / "run").values(), weights(tmp_path / "edited").values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_runs_with_and_without_decisions_reuse_what_is_computed_and_sweeps_take_several(
    run_command: Run, root: Path, tmp_path: Path
) -> None:
    decisions(tmp_path, *SOME)
    decisions(tmp_path, HEADER, "train/dogs/dog.2.jpg,drop,", name="others.csv")
    settings = [f"data.root={root}", *FAST, "activations.views=2"]
    result = run_command(
        "train.py", "-m", *settings, "data.decisions=null,decisions.csv,others.csv,none", "hydra.sweep.dir=sweep"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Reusing activations of train, view") == 6
    assert result.stdout.count("Reusing activations of valid") >= 3
    counts = [
        sum(row["split"] == "train" for row in read_csv(tmp_path / f"sweep/{job}/photos.csv")) for job in range(4)
    ]
    assert counts == [24, 23, 23, 24]
    assert "decisions: null" in (tmp_path / "sweep" / "3" / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.fault("decisions edited or removed before `resume=`: the run's own copy is used, and it says so")
def test_a_resumed_run_goes_on_with_its_own_copy(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    file = decisions(tmp_path, *SOME)
    mine = "+callbacks.mine={_target_: mine.Epochs, word: hi}"
    recipe = ["recipe.precompute.epochs=2", "~recipe.finetune", "recipe.augmented.cycles=1"]
    settings = [f"data.root={shared_root}", *TINY, *recipe, *QUIET]
    settings += ["data.decisions=decisions.csv", mine]
    straight = run_command("train.py", *settings, "hydra.run.dir=straight")
    assert straight.returncode == 0, straight.stderr
    for name in ("edited", "removed"):
        decisions(tmp_path, *SOME)
        interrupted = run_command("train.py", *settings, f"hydra.run.dir={name}", INTERRUPT="precompute 1")
        assert interrupted.returncode == 143
        if name == "edited":
            decisions(tmp_path, *SOME[:-1])
        else:
            file.unlink()
        resumed = run_command("train.py", f"resume={tmp_path / name}", "trust=true")
        assert resumed.returncode == 0, resumed.stderr
        changed = f"{file} has changed since the run began, which goes on with its own copy"
        assert (changed in resumed.stdout) == (name == "edited")
        assert f"Decisions {tmp_path / name / 'decisions.csv'}: 2 photos dropped" in resumed.stdout
        assert outcome(tmp_path / name) == outcome(tmp_path / "straight")
    refused = run_command("train.py", f"resume={tmp_path / 'edited'}", "data.decisions=other.csv")
    assert "a run resumes with its own settings; drop data.decisions=other.csv" in refused.stderr


def test_a_refused_run_leaves_no_copy_and_a_file_of_the_user_is_left_alone(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    decisions(tmp_path, *SOME)
    settings = [f"data.root={shared_root}", *FAST, "data.decisions=decisions.csv"]
    refused = run_command("train.py", *settings, "load=photos.csv", "hydra.run.dir=run")
    assert refused.returncode == 1
    assert not (tmp_path / "run" / "decisions.csv").exists()
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(b"no checkpoint")
    refused = run_command("train.py", *settings, f"load={bad}", "hydra.run.dir=run")  # after the photos
    assert "Decisions decisions.csv" in refused.stdout
    assert refused.returncode == 1
    assert not (tmp_path / "run" / "decisions.csv").exists()
    (tmp_path / "run").mkdir()
    own = decisions(tmp_path / "run", HEADER)
    refused = run_command("train.py", *settings, "hydra.run.dir=run")
    assert f"{own}: it is in the way of the run's copy of decisions.csv" in refused.stderr
    assert own.read_text() == f"{HEADER}\n"


def predicted(folder: Path) -> list[tuple[str, str]]:
    with next(folder.glob("predictions*.csv")).open() as file:
        return [(row["path"], row["label"]) for row in csv.DictReader(file)]


def test_a_run_is_evaluated_with_its_own_decisions(run_command: Run, root: Path, tmp_path: Path) -> None:
    decisions(tmp_path, *SOME, "valid/dogs/dog.2.jpg,relabel,cats")
    run(root, tmp_path / "run", *FAST, "data.decisions=decisions.csv")
    of_run = predicted(tmp_path / "run")
    assert len(of_run) == 9
    assert ("valid/dogs/dog.2.jpg", "cats") in of_run
    decisions(tmp_path, HEADER)  # edited since
    (tmp_path / "run").rename(tmp_path / "moved")
    copy = tmp_path / "moved" / "decisions.csv"

    arguments = ["evaluate.py", "run=moved", "callbacks={tta: {n_aug: 0}, reports: null}"]
    result = run_command(*arguments, "hydra.run.dir=own")
    assert result.returncode == 0, result.stderr
    assert f"Decisions {copy}: 1 photo dropped (valid 1), 1 relabeled (valid 1)" in result.stdout
    assert predicted(tmp_path / "own") == of_run
    without = run_command(*arguments, "hydra.run.dir=without", "data.decisions=none")
    assert "Decisions" not in without.stdout
    assert len(predicted(tmp_path / "without")) == 10

    predictor, other = Predictor.load(tmp_path / "moved"), shutil.copytree(root, tmp_path / "other")
    assert len(predictor.data(other).labelled("valid", ["cats", "dogs"]).paths) == 10
    given = decisions(tmp_path, HEADER, "valid/cats/cat.0.jpg,drop,", "train/cats/cat.0.jpg,drop,")
    data = predictor.data(other, decisions=str(given))
    assert len(data.labelled("valid", ["cats", "dogs"]).paths) == 9
    applied = "1 of 2 decisions apply; 1 is about photos of other splits"
    assert data.decided == f"{given}: 1 photo dropped (valid 1), 0 relabeled. {applied}"
    decisions(tmp_path, HEADER, *(f"valid/{n}s/{n}.{number}.jpg,drop," for n in ("cat", "dog") for number in range(5)))
    with pytest.raises(UserError, match="no photo of valid is left"):
        predictor.data(decisions=str(given)).labelled("valid", ["cats", "dogs"])
    copy.unlink()
    missing = run_command(*arguments, "hydra.run.dir=missing")
    assert missing.returncode == 1
    assert f"data.decisions={tmp_path / 'run' / 'decisions.csv'}: there is no such file." in missing.stderr
    assert "or none to use all photos as they are" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_decisions_about_photos_of_parquet_files(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    from pyarrow import parquet

    contents = []
    for number in range(10):
        draw_photo(tmp_path / "drawn.jpg", number % 2, number)
        contents.append({"bytes": (tmp_path / "drawn.jpg").read_bytes(), "path": f"{number}.jpg"})
    (tmp_path / "root").mkdir()
    columns = {"image": contents, "label": ["a", "b"] * 5}
    parquet.write_table(pyarrow.table(columns), tmp_path / "root" / "photos.parquet")
    plain = ready(tmp_path / "root", labels="photos.parquet")
    first, last = plain.train.paths[0], plain.train.paths[-1]
    data = ready(
        tmp_path / "root", decisions(tmp_path, HEADER, f"{first},drop,", f"{last},relabel,a"), labels="photos.parquet"
    )
    assert pairs(data.train) == [*pairs(plain.train)[1:-1], (last, 0)]
