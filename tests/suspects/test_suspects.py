"""Suspects: wrong labels, duplicates, outliers and bad quality are found, listed, and decided about."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAST, TINY, Run, draw_root
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from benchmarks.suspects import drawing
from dogscats.base.errors import UserError
from dogscats.base.files import read_csv
from dogscats.data.photos.layouts import Photos
from dogscats.predict.suspects_of_run import frozen_checkpoint
from dogscats.reliability.neighbors import Neighbors, half_whitened, nearest, principal_components
from dogscats.suspects import search
from dogscats.suspects.appearance import look_at, quality
from dogscats.suspects.duplicates import candidates_by_features, candidates_by_thumbnails, duplicates
from dogscats.suspects.labels import label_scores, left_out_probabilities, vote
from dogscats.suspects.search import Labelled, find_suspects


def clusters(count: int, classes: int, size: int = 40, spread: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Features around a center of each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = torch.randn(classes, size, generator=generator)
    return centers[labels] + spread * torch.randn(count, size, generator=generator), labels


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Blobs of colors: a picture with structure of its own."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 8, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(coarse) * 0.8 + 25 + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize("classes", [2, 5])
def test_changed_labels_come_first(share: float, classes: int) -> None:
    features, labels = clusters(300, classes)
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(300, generator=generator)[: round(share * 300)]
    wrong = labels.clone()
    wrong[chosen] = (labels[chosen] + 1) % classes
    points = principal_components(features)
    probabilities = left_out_probabilities(points, wrong, classes, nearest(half_whitened(points), 20))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(300))
    scores, suggested = label_scores(probabilities, wrong)
    first = set(scores.topk(len(chosen)).indices.tolist())
    assert len(first & set(chosen.tolist())) >= 0.95 * len(chosen)
    assert (suggested[chosen] == labels[chosen]).float().mean() > 0.95


def test_a_photo_is_judged_without_its_own_label() -> None:
    """Its probabilities are the same, whatever its label is."""
    features, labels = clusters(60, 3)
    points = principal_components(features)
    neighbors = nearest(half_whitened(points), 20)
    other = labels.clone()
    other[7] = (labels[7] + 1) % 3
    fixed = {"PENALTIES": (0.1,), "TEMPERATURES": (4.0,)}  # these are chosen by all labels
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fixed.items():
            patch.setattr(f"dogscats.suspects.labels.{name}", value)
        ours, theirs = (left_out_probabilities(points, each, 3, neighbors)[7] for each in (labels, other))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_leaving_one_out_equals_training_without_it() -> None:
    features, labels = clusters(40, 2, spread=2)
    points = principal_components(features)
    penalty, temperature = 0.3, 4.0
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PENALTIES": (penalty,), "TEMPERATURES": (temperature,), "WIDTHS": (1.0,)}.items():
            patch.setattr(f"dogscats.suspects.labels.{name}", value)
        nobody = Neighbors(torch.zeros(40, 0, dtype=torch.long), torch.zeros(40, 0))
        probabilities = left_out_probabilities(points, labels, 2, nobody)

    # The same head, solved in the space of photos without photo 5: its bias is a constant feature. `JITTER` keeps both
    # from being exactly equal.
    unit = torch.nn.functional.normalize(points, dim=1).double()
    kernel, others = (unit @ unit.T - 1).exp() + 1, torch.arange(40) != 5
    targets = torch.nn.functional.one_hot(labels, 2).double()
    ridge = kernel[others][:, others] + penalty * torch.eye(39)
    head = (kernel[5, others] @ torch.linalg.solve(ridge, targets[others]) * temperature).softmax(dim=0)
    expected = (head + 0.5) / 2  # nobody votes: each class has one half
    torch.testing.assert_close(probabilities[5].double(), expected, atol=1e-4, rtol=1e-3)


def test_few_photos_of_a_class(tmp_path: Path) -> None:
    features, labels = clusters(41, 2)
    labels[40] = 2  # the only one of its class: nothing can be said about it
    photos = Labelled(tmp_path, [f"{number}.jpg" for number in range(41)], labels, ["train"] * 41, ["a", "b", "c"])
    points = principal_components(features)
    found = search.wrong_labels(photos, points, nearest(half_whitened(points), 20))
    assert {suspect.path: suspect.score for suspect in found}["40.jpg"] == 0
    tiny, few = clusters(2, 2)
    points = principal_components(tiny)
    assert left_out_probabilities(points, few, 2, nearest(half_whitened(points), 20)).isfinite().all()


def test_neighbors_vote_by_similarity() -> None:
    neighbors = Neighbors(torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.tensor([[0.9, 0.1]] * 3))
    shares = vote(neighbors, torch.tensor([0, 1, 0]), 2, 2)
    torch.testing.assert_close(shares[0], torch.tensor([0.15, 0.95]) / 1.1)


def test_nearest_neighbors_and_components() -> None:
    features, _ = clusters(50, 2, size=8)
    points = principal_components(features)
    assert points.shape == (50, 8)
    unit = torch.nn.functional.normalize(points, dim=1)
    similarities = unit @ unit.T
    similarities.fill_diagonal_(-2)
    found = nearest(points, 5)
    torch.testing.assert_close(found.similarities, similarities.topk(5).values)
    standardized = (features - features.mean(0)) / features.std(0, correction=0)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(standardized, standardized), atol=5e-3, rtol=0)


ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": lambda picture: picture,
    "resized": lambda picture: picture.resize((84, 63)),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "rotated": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    "cropped": lambda picture: picture.crop((6, 0, 120, 86)),
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.9),
    "gray": lambda picture: picture.convert("L"),
}


def test_duplicates_are_found_however_they_were_altered(tmp_path: Path) -> None:
    names = []
    for number in range(40):
        scene(number).save(tmp_path / f"{number}.jpg", quality=95)
        names.append(f"{number}.jpg")
    for number, (kind, alter) in enumerate(ALTERED.items()):
        alter(scene(number)).save(tmp_path / f"{kind}.jpg", quality=40)
        names.append(f"{kind}.jpg")
    thumbnails = look_at(tmp_path, names).thumbnails
    pairs = duplicates(thumbnails, candidates_by_thumbnails(thumbnails))
    assert {(names[first], names[second]) for first, second, _ in pairs} == {
        (f"{number}.jpg", f"{kind}.jpg") for number, kind in enumerate(ALTERED)
    }
    assert all(0.8 <= score <= 1.001 for *_, score in pairs)


def test_pairs_of_which_none_is_alike(tmp_path: Path) -> None:
    """Also of a whole batch of candidates, and without any candidates."""
    for number in range(3):
        scene(number).save(tmp_path / f"{number}.png")
    thumbnails = look_at(tmp_path, [f"{number}.png" for number in range(3)]).thumbnails
    assert duplicates(thumbnails, torch.combinations(torch.arange(3))) == []
    assert duplicates(thumbnails, torch.empty(0, 2, dtype=torch.long)) == []
    again = torch.cat([thumbnails, thumbnails[:1]])
    every = torch.tensor([[0, 3], [0, 1], [0, 2], [1, 2]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dogscats.suspects.duplicates.PAIRS_AT_ONCE", 2)
        assert [pair[:2] for pair in duplicates(again, every)] == [(0, 3)]


def test_things_on_a_plain_background_are_no_duplicates(tmp_path: Path) -> None:
    for number in range(12):
        picture = Image.new("RGB", (120, 90), (200, 205, 200))
        x, y = 40 + random.Random(number).randint(0, 12), 30 + random.Random(-number).randint(0, 9)
        picture.paste(scene(number, (30, 25)), (x, y))
        picture.save(tmp_path / f"{number}.jpg")
    blank = Image.new("RGB", (120, 90), "white")
    blank.save(tmp_path / "12.jpg")
    blank.save(tmp_path / "13.jpg")
    thumbnails = look_at(tmp_path, [f"{number}.jpg" for number in range(14)]).thumbnails
    every = torch.combinations(torch.arange(14))
    assert duplicates(thumbnails, every) == []


@pytest.mark.parametrize("kind", ["arrows", "letters", "forms"])
def test_drawings_of_a_kind_are_no_duplicates_but_copies_are(kind: str, tmp_path: Path) -> None:
    for number in range(30):
        drawing(kind, number).save(tmp_path / f"{number}.png")
    drawing(kind, 3).resize((112, 84)).save(tmp_path / "30.jpg", quality=40)
    ImageOps.mirror(drawing(kind, 8)).save(tmp_path / "31.png")
    thumbnails = look_at(tmp_path, [*(f"{number}.png" for number in range(30)), "30.jpg", "31.png"]).thumbnails
    found = duplicates(thumbnails, torch.combinations(torch.arange(32)))
    assert {pair[:2] for pair in found} == {(3, 30), (8, 31)}


def test_quality(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {
        "good": scene(0, (300, 300)),
        "blank": Image.new("RGB", (300, 300), (90, 120, 130)),
        "dark": ImageEnhance.Brightness(scene(1, (300, 300))).enhance(0.15),
        "small": scene(2, (40, 40)),
        "blurred": scene(3, (300, 300)).filter(ImageFilter.GaussianBlur(25)),
        "bright": Image.fromarray((255 - rng.integers(0, 12, (300, 300, 3)) ** 2 // 4).astype(np.uint8)),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    names = [*pictures, "damaged"]
    scores, reason = quality(look_at(tmp_path, [f"{name}.png" for name in names]), 224)
    for index, name in enumerate(names):
        if name in ("good", "damaged"):
            assert scores[index] < 0.5, name
        else:
            assert scores[index] > 0.5, name
            assert reason(index).startswith(name), reason(index)


def test_all_kinds_of_one_dataset(tmp_path: Path) -> None:
    paths, splits = [], []
    for number in range(60):
        split = "valid" if number % 4 == 0 else "train"
        path = f"{split}/{'ab'[number % 2]}/{number}.jpg"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        scene(number).save(tmp_path / path)
        paths.append(path)
        splits.append(split)
    features, labels = clusters(60, 2, spread=0.5)
    for copy, original in ((3, 1), (6, 8)):  # 3 and 1 are in train; 8 is in valid, 6 in train
        scene(original).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((90, 68)).save(tmp_path / paths[copy])
        features[copy] = features[original]
    labels[10] = 1
    features[20] = 10 * torch.randn(features.shape[1], generator=torch.Generator().manual_seed(3))
    Image.new("RGB", (90, 60)).save(tmp_path / paths[30])
    found = find_suspects(Labelled(tmp_path, paths, labels, splits, ["a", "b"]), features, 32)
    of_kind = {
        kind: [s for s in found if s.kind == kind] for kind in ("label", "duplicate", "leak", "outlier", "quality")
    }
    assert of_kind["label"][0][:3] == (paths[10], "b", "a")
    assert "probability of b: 0." in of_kind["label"][0].reason
    assert [(s.path, s.twin) for s in of_kind["duplicate"]] == [(paths[3], paths[1])]  # the smaller one first
    assert [(s.path, s.twin) for s in of_kind["leak"]] == [(paths[6], paths[8])]  # the training photo first
    assert of_kind["outlier"][0].path == paths[20]
    assert of_kind["quality"][0].path == paths[30]
    assert {kind: len(of_kind[kind]) for kind in ("label", "outlier", "quality")} == dict.fromkeys(
        ("label", "outlier", "quality"), 60
    )
    for group in of_kind.values():
        assert [s.score for s in group] == sorted((s.score for s in group), reverse=True)
        assert all(0 <= s.score <= 1.001 for s in group)


def test_search_decide_and_train_again(run_command: Run, tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos")
    shutil.copy(root / "train/cats/cat.0.jpg", root / "train/dogs/copy.jpg")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}
    assert run_command("train.py", f"data.root={root}", *FAST, "hydra.run.dir=run").returncode == 0
    result = run_command("evaluate.py", "run=run", "suspects=true", "hydra.run.dir=suspects")
    assert result.returncode == 0, result.stderr
    assert "Reusing activations of train" in result.stdout
    assert "Reusing activations of valid" in result.stdout
    assert "Computing" not in result.stdout
    rows = read_csv(tmp_path / "suspects" / "suspects.csv")
    assert list(rows[0]) == ["path", "label", "suggested", "kind", "score", "twin", "reason"]
    (pair,) = (row for row in rows if row["kind"] == "duplicate")
    assert {pair["path"], pair["twin"]} == {"train/cats/cat.0.jpg", "train/dogs/copy.jpg"}
    assert "there" in pair["reason"]  # the labels differ
    assert {row["path"].split("/")[0] for row in rows} == {"train", "valid"}
    page = (tmp_path / "suspects" / "suspects.html").read_text()
    assert "train/dogs/copy.jpg" in page
    assert "suspects.html in a browser" in result.stdout
    (tmp_path / "decisions.csv").write_text("path,decision,label\ntrain/dogs/copy.jpg,drop,\n")
    result = run_command("train.py", f"data.root={root}", "data.decisions=decisions.csv", *FAST, "hydra.run.dir=b")
    assert result.returncode == 0, result.stderr
    assert "1 photo dropped (train 1)" in result.stdout
    assert "Reusing activations of train" in result.stdout
    result = run_command("evaluate.py", "run=b", "suspects=true", "split=train", "hydra.run.dir=again")
    assert result.returncode == 0, result.stderr
    rows = read_csv(tmp_path / "again" / "suspects.csv")
    assert not [row for row in rows if row["kind"] == "duplicate" or not row["path"].startswith("train/")]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_network_from_before_its_body_was_trained_is_taken(run_command: Run, tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos")
    stages = ["recipe=adapt", "recipe.precompute.cycle_len=1", "recipe.finetune.epochs=1", "heads=1", *TINY]
    result = run_command(
        "train.py", f"data.root={root}", *stages, "callbacks.reports=null", "hydra.run.dir=run", "model.features=last"
    )
    assert result.returncode == 0, result.stderr
    assert frozen_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoints" / "adapt_head.ckpt"
    (tmp_path / "run" / "checkpoints" / "adapt_head.ckpt").unlink()
    assert frozen_checkpoint(tmp_path / "run") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suspects=maybe"], "suspects=maybe: expected true or false"),
        (["suspects=true", "export=onnx"], "are separate runs: give one of them"),
        (["suspects=true", "predict=x.jpg"], "are separate runs: give one of them"),
        (["split=''"], "split=: expected the name of a folder"),
    ],
)
def test_mistakes_are_told(run_command: Run, arguments: list[str], message: str) -> None:
    result = run_command("evaluate.py", "run=nowhere", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_joined_photos_keep_their_splits(tmp_path: Path) -> None:
    train, valid = Photos(tmp_path, ["a", "b"], [0, 1]), Photos(tmp_path, ["c"], [1])
    photos = search.joined({"train": train, "valid": valid}, ["x", "y"])
    assert photos.paths == ["a", "b", "c"]
    assert photos.labels.tolist() == [0, 1, 1]
    assert photos.splits == ["train", "train", "valid"]
    assert candidates_by_features(torch.eye(3)).shape[1] == 2
    with pytest.raises(UserError, match=r"config\.yaml"):
        frozen_checkpoint(tmp_path)
