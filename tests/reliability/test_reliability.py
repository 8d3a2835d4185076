"""Photos that get no class, calibrated probabilities, and the files that a run keeps for both."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Run, TinyNetwork, command_runner, draw_photo, draw_root
from PIL import Image

from dogscats import Backbone, Classifier, Predictions, Predictor
from dogscats.base.errors import UserError
from dogscats.base.files import digest, read_csv
from dogscats.reliability.agreement import MAX_ANSWERS, MAX_CLASSES, Disagreement
from dogscats.reliability.depths import forward_with_depths
from dogscats.reliability.kept import read_reliability, weights_digest, write_reliability
from dogscats.reliability.measured import fit_temperature, measure, out_of_fold, with_temperature
from dogscats.reliability.signs import Distance, Energy, ForwardPass, TrainingPhotos, evenly_spaced, of_all_depths
from dogscats.reliability.strangers import StrangerDetector
from dogscats.reliability.thresholds import Thresholds, accuracy_kept, choose_thresholds, words


def overconfident(count: int = 600, factor: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of three classes whose logits are too large by a factor, and labels drawn without it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten()
    return (factor * logits).softmax(dim=1), labels


def test_the_temperature_undoes_a_factor_of_the_logits_and_keeps_the_classes() -> None:
    probabilities, labels = overconfident(5000)
    assert fit_temperature(probabilities, labels) == pytest.approx(3, rel=0.1)
    calibrated = with_temperature(probabilities, 3.0)
    torch.testing.assert_close(calibrated.sum(dim=1), torch.ones(5000))
    assert torch.equal(calibrated.argmax(dim=1), probabilities.argmax(dim=1))
    assert with_temperature(probabilities, 1.0) is probabilities
    assert with_temperature(torch.tensor([[0.0, 1.0]]), 2.0).isfinite().all()


def test_metrics_are_of_photos_the_temperature_has_not_seen() -> None:
    probabilities, labels = overconfident()
    calibrated = out_of_fold(probabilities, labels)
    changed = labels.clone()
    changed[::5] = (changed[::5] + 1) % 3  # other labels in the first fold
    torch.testing.assert_close(out_of_fold(probabilities, changed)[::5], calibrated[::5])
    before, after = (predictions_of(values, labels) for values in (probabilities, calibrated))
    assert after.ece < before.ece


def clouds(count: int, center: float, seed: int, size: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, size, generator=generator)
    features[:, 0] += 5
    features[:, 1] += center
    return features


def detector_of(features: torch.Tensor, labels: Sequence[int] = (), classes: int = 1000) -> StrangerDetector:
    photos = TrainingPhotos(features, None, labels, classes, lambda: [features.shape[1] - 3, 3])
    return StrangerDetector.fit(photos, [f"train/{row}.jpg" for row in range(len(features))])


def scores_of(detector: StrangerDetector, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return detector.scores(ForwardPass(features, logits))


def test_strangers_are_more_unlike_than_validation_photos() -> None:
    train, valid = (torch.cat([clouds(150, 3, seed), clouds(150, -3, seed + 1)]) for seed in (0, 5))
    far = clouds(300, 0, 9)
    far[:, 7:15] += 9
    detector, logits = detector_of(train), torch.zeros(1, 300, 2)
    scores = scores_of(detector, valid, logits)
    detector.calibrate(scores)
    known, strange = detector.unlike(scores), detector.unlike(scores_of(detector, far, logits))
    assert known.min() >= 0
    assert strange.max() <= 1
    assert strange.median() > known.quantile(0.99)
    weak = detector.unlike(scores_of(detector, valid, logits - 5))  # small logits make a stranger, too
    assert weak.min() > known.quantile(0.95)


def test_a_feature_that_did_not_vary_and_few_or_equal_photos_are_no_error() -> None:
    for features in (torch.ones(2, 8), torch.zeros(3, 8), clouds(2, 0, 0), clouds(4, 0, 0, size=3)):
        detector = detector_of(features)
        scores = scores_of(detector, torch.rand(5, features.shape[1]) + 1, torch.zeros(2, 5, 2))
        detector.calibrate(scores)
        assert detector.unlike(scores).isfinite().all()


def test_the_most_similar_training_photo_is_the_photo_itself() -> None:
    features = clouds(50, 3, 0)
    found = detector_of(features).similar(features[[7, 31]], 3)
    assert [photos[0][0] for photos in found] == ["train/7.jpg", "train/31.jpg"]
    assert all(len(photos) == 3 and photos[0][1] == pytest.approx(1, abs=1e-3) for photos in found)
    assert len(detector_of(features[:2]).similar(features, 5)[0]) == 2
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced(3, 10).tolist() == [0, 1, 2]


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 37, 1000])
def test_both_thresholds_together_keep_the_share(keep: float, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    probable, unlike = torch.rand(2, count, generator=generator)
    chosen = choose_thresholds(probable, unlike, keep)
    kept = int(((probable >= chosen.unsure_below) & (unlike <= chosen.none_above)).sum())
    assert kept >= math.ceil(keep * count - 1e-9)
    assert kept <= keep * count + 3


def test_decisions_name_a_class_or_why_there_is_none() -> None:
    thresholds = Thresholds(unsure_below=0.8, none_above=0.5)
    probabilities = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.01, 0.99], [0.5, 0.5]])
    unlike = torch.tensor([0.5, 0.1, 0.6, 0.9])
    assert thresholds.decide(["cats", "dogs"], probabilities, unlike) == ["cats", "unsure", "none", "none"]
    assert thresholds.decide(["none", "(none)"], probabilities, unlike) == ["none", "unsure", "((none))", "((none))"]
    assert words(["unsure", "dogs"]) == ("(unsure)", "none")


def test_the_curve_ends_at_the_accuracy_of_all() -> None:
    right = torch.tensor([True, True, True, False])
    curve = accuracy_kept(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0.1, 0.2, 0.3, 0.4]), right)
    assert curve == [(0.25, 1), (0.5, 1), (0.75, 1), (1, 0.75)]
    assert len(accuracy_kept(*torch.rand(2, 5000), torch.ones(5000))) == 100


def predictions_of(
    probabilities: torch.Tensor, labels: torch.Tensor, unlike: torch.Tensor | None = None
) -> Predictions:
    return Predictions([str(n) for n in range(len(labels))], ["a", "b", "c"], labels, probabilities, unlike=unlike)


def test_a_temperature_that_does_not_help_is_not_used() -> None:
    probabilities, labels = overconfident()
    detector, unlike = detector_of(clouds(10, 0, 0)), torch.rand(len(labels))
    version = measure(detector, predictions_of(probabilities, labels, unlike), None).plain
    assert version.temperature == pytest.approx(3, rel=0.3)
    assert version.calibration["ece_after"] < version.calibration["ece_before"]  # type: ignore[operator]
    good = measure(detector, predictions_of(*overconfident(factor=1.0), unlike), None).plain
    assert good.temperature == pytest.approx(1, abs=0.15)
    few = measure(detector, predictions_of(probabilities[:10], labels[:10], unlike[:10]), None).plain
    assert (few.temperature, few.calibration["ece_after"]) == (1, None)
    perfect = predictions_of(probabilities, probabilities.argmax(dim=1), unlike)
    assert measure(detector, perfect, None).plain.temperature == 1


def test_the_files_are_read_as_written_for_the_same_weights_alone(tmp_path: Path) -> None:
    probabilities, labels = overconfident()
    features = clouds(len(labels), 3, 0)
    detector = detector_of(features, labels.tolist(), 3)
    detector.paths = [f"\udce9 \n{row}" for row in range(len(labels))]
    scores = scores_of(detector, features, probabilities.log()[None])
    detector.calibrate(scores)
    predictions = predictions_of(probabilities, labels, detector.unlike(scores))
    state = {"weight": torch.ones(3).half()}
    written = measure(detector, predictions, predictions)
    write_reliability(tmp_path, written, weights_digest(state))
    found = read_reliability(tmp_path, {"weight": torch.ones(3)})
    assert found is not None
    assert found.detector.paths == detector.paths
    assert [type(sign) for sign in found.detector.signs] == [Distance, Disagreement]
    assert torch.equal(scores_of(found.detector, features, probabilities[None]), scores)
    assert (found.plain.thresholds, found.tta and found.tta.temperature) == (
        written.plain.thresholds, written.tta and written.tta.temperature
    )  # fmt: skip
    for keep in (0.5, 0.99, 1):
        other = read_reliability(tmp_path, state, keep)
        assert other is not None
        assert other.plain.summary()["kept"] == pytest.approx(keep, abs=0.01)
    assert read_reliability(tmp_path, {"weight": torch.zeros(3)}) is None
    assert read_reliability(tmp_path / "none", state) is None
    for keep in (0, 1.5, True, "x"):
        with pytest.raises(UserError, match=r"^keep=.*: expected the share"):
            read_reliability(tmp_path, state, keep)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^keep=0.9: .* other weights"):
        read_reliability(tmp_path, {"weight": torch.zeros(3)}, 0.9)
    numbers = json.loads((tmp_path / "reliability.json").read_text())
    for key, value in (("temperature", 0), ("temperature", "x"), ("unsure_below", True), ("none_above", float("nan"))):
        edited = numbers | {"plain": numbers["plain"] | {key: value}}
        (tmp_path / "reliability.json").write_text(json.dumps(edited))
        with pytest.raises(UserError, match=rf"^reliability\.json: plain\.{key}=.*: expected"):
            read_reliability(tmp_path, state)
    (tmp_path / "reliability.json").write_text(json.dumps(numbers))
    content = (tmp_path / "strangers.npz").read_bytes()
    for bad in (b"", content[:-100], content[:5000] + b"x" * 500 + content[5500:]):
        (tmp_path / "strangers.npz").write_bytes(bad)
        with pytest.raises(UserError, match=r"strangers.npz: it is damaged"):
            read_reliability(tmp_path, state)
    (tmp_path / "strangers.npz").write_bytes(content)
    assert read_reliability(tmp_path, state) is not None
    np.savez_compressed(tmp_path / "strangers.npz", mean=np.zeros(10**6))
    with pytest.raises(UserError, match=r"or of another run than reliability\.json"):
        read_reliability(tmp_path, state)
    numbers["strangers"] = digest(tmp_path / "strangers.npz")
    (tmp_path / "reliability.json").write_text(json.dumps(numbers))
    with pytest.raises(UserError, match="would unpack to"):
        read_reliability(tmp_path, state)


@pytest.mark.parametrize(("classes", "depths"), [(MAX_CLASSES, 1), (64, MAX_ANSWERS // 64)])
def test_twenty_thousand_photos_take_at_most_10_mb(classes: int, depths: int, tmp_path: Path) -> None:
    count, size, answers = 20_000, 4128, classes * depths
    squares = {name: torch.zeros(answers, answers) for name in ("within", "overall")}
    agreement = Disagreement(
        widths=torch.tensor([size // depths] * depths), weight=torch.zeros(size, classes), bias=torch.zeros(answers),
        centers=torch.zeros(classes, answers), center=torch.zeros(answers), **squares,
    )  # fmt: skip
    distance = Distance(
        mean=torch.zeros(size),
        deviation=torch.ones(size),
        directions=torch.zeros(size, 128),
        scales=torch.ones(129),
        points=torch.zeros(count, 128),
    )
    detector = StrangerDetector([distance, agreement], [f"train/cats/cat.{number}.jpg" for number in range(count)])
    valid = predictions_of(torch.full((5000, 3), 1 / 3), torch.zeros(5000).long(), torch.rand(5000))
    write_reliability(tmp_path, measure(detector, valid, valid), "")
    assert (tmp_path / "strangers.npz").stat().st_size < 10e6


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a trained body and with 60 validation photos."""
    folder = tmp_path_factory.mktemp("reliable")
    root = draw_root(folder / "photos", train=12, valid=30)
    result = command_runner(folder)(
        "train.py", f"data.root={root}", "hydra.run.dir=run", *TINY, "~recipe.augmented", "recipe.finetune.cycles=1",
        "callbacks.lr_finder.before=none", "callbacks.tta.n_aug=1", "final=last",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "are classified" in result.stdout
    return folder / "run"


def test_a_trained_body_is_judged_by_all_its_depths(trained: Path) -> None:
    model = Predictor.load(trained).model
    detector = model.scorer
    assert isinstance(detector, StrangerDetector)
    assert [type(sign) for sign in detector.signs] == [Distance]
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        log_probabilities, scores = detector(model.body, model.heads, images)
        assert torch.equal(log_probabilities, model(images))
        features, depths = forward_with_depths(model.body, images)
        assert torch.equal(features, model.body(images))
        assert len(depths) == 4  # the stem, and layer1 to layer3
        computed = ForwardPass(features, torch.empty(0), torch.cat(depths, dim=1))
        assert torch.equal(scores, detector.scores(computed))
        changed = computed._replace(depths=computed.depths.flip(1))  # type: ignore[union-attr]
        assert not torch.equal(scores, detector.scores(changed))


def test_the_depths_of_a_trained_body_have_the_same_weight() -> None:
    train, new = clouds(200, 3, 0, size=40), clouds(50, 3, 1, size=40)
    depths = torch.nn.functional.normalize(clouds(250, 0, 2, size=4))
    photos = TrainingPhotos(train, depths[:200], [0] * 200, 1, lambda: [40, 4])
    sign = Distance.fit(photos)
    assert sign is not None
    ordinary, early, late = (
        sign.score(ForwardPass(features, torch.empty(0), values))
        for features, values in ((new, depths[200:]), (new, depths[200:].flip(1)), (-new, depths[200:]))
    )
    assert ordinary.max() < early.median()
    assert ordinary.max() < late.median()
    assert Disagreement.fit(photos) is None
    assert Energy.fit(photos) is None
    assert of_all_depths(photos).shape == (200, 44)


def test_a_run_keeps_files_and_decides_about_its_validation_photos(trained: Path) -> None:
    saved: dict[str, Any] = json.loads((trained / "reliability.json").read_text())
    assert (saved["photos"], saved["keep"]) == (60, 0.95)
    assert saved["plain"]["kept"] >= 0.95
    assert set(saved["tta"]) == set(saved["plain"])
    assert (trained / "accuracy_kept.png").exists()
    rows = read_csv(trained / "predictions_valid.csv")
    assert list(rows[0]) == ["path", "label", "predicted", "decision", "unlike", "prob_cats", "prob_dogs"]
    kept = [row for row in rows if row["decision"] in ("cats", "dogs")]
    assert len(kept) / len(rows) == pytest.approx(saved["tta"]["kept"])
    assert all(row["decision"] == row["predicted"] for row in kept)
    assert not (trained / ".features").exists()


def test_predictions_have_decisions_and_other_shares_keep_more(trained: Path) -> None:
    root = trained.parent / "photos"
    paths = sorted((root / "valid").glob("*/*.jpg"))
    counts = []
    for keep in (0.5, None, 1.0):
        predictor = Predictor.load(trained, keep=keep)
        predictions, _ = predictor.predict(paths, n_aug=0)
        assert predictions.unlike is not None
        assert predictions.unlike.shape == (60,)
        counts.append(sum(decision in predictor.classes for decision in predictions.decisions))
    assert 30 <= counts[0] < counts[1] <= counts[2] == 60
    assert predictor.reliability is not None
    version = predictor.reliability.plain
    detector = predictor.model.scorer
    predictor.reliability, predictor.model.scorer = None, None
    before, _ = predictor.predict(paths, n_aug=0)
    assert (before.unlike, before.decisions) == (None, [])
    torch.testing.assert_close(with_temperature(before.probabilities, version.temperature), predictions.probabilities)
    with pytest.raises(UserError, match="has not kept"):
        predictor.similar(paths[:1])
    predictor.model.scorer = detector
    ((first, *rest),) = predictor.similar([root / "train" / "cats" / "cat.3.jpg"])
    assert first[0] == "train/cats/cat.3.jpg"
    assert first[1] == pytest.approx(1, abs=1e-3)
    assert len(rest) == 2
    with pytest.raises(UserError, match=r"none.jpg"):
        predictor.similar(["none.jpg"])


def test_evaluation_reports_decisions(run_command: Run, trained: Path, tmp_path: Path) -> None:
    result = run_command("evaluate.py", f"run={trained}", "keep=0.8", "callbacks.tta.n_aug=0", "hydra.run.dir=out")
    assert result.returncode == 0, result.stderr
    row = json.loads((tmp_path / "out" / "metrics.json").read_text())["reliability"]
    assert row["keep"] == 0.8
    assert row["kept"] >= 48
    assert row["kept"] + row["unsure"] + row["none"] == 60
    assert f"{row['kept']} photos are classified" in result.stdout
    assert "Keep      0.8 of the validation photos: a class needs a probability of " in result.stdout
    decisions = [row["decision"] for row in read_csv(tmp_path / "out" / "predictions.csv")]
    assert decisions.count("none") == row["none"]
    for number in range(2):
        draw_photo(tmp_path / "new" / f"{number}.jpg", number, 7)
    result = run_command("evaluate.py", f"run={trained}", "predict=new", "hydra.run.dir=new_out")
    assert result.returncode == 0, result.stderr
    decided = Counter(row["decision"] for row in read_csv(tmp_path / "new_out" / "predictions.csv"))
    (summary,) = re.findall(r"^2 photos: (.*)$", result.stdout, re.MULTILINE)
    assert sorted(summary.split(", ")) == sorted(f"{count} {name}" for name, count in decided.items())
    assert set(read_csv(tmp_path / "new_out" / "predictions.csv")[0]) >= {"decision", "unlike"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keep=0"], "keep=0: expected the share of validation photos that are classified, above 0 and at most 1."),
        (["keep=95"], "keep=95: expected the share"),
        (["keep=true"], "keep=True: expected the share"),
        (["keep=0.9", "suspects=true"], "keep=: this has no effect with suspects=true."),
    ],
)
def test_a_bad_share_is_refused(arguments: list[str], message: str, run_command: Run, trained: Path) -> None:
    result = run_command("evaluate.py", f"run={trained}", *arguments)
    assert result.returncode == 1
    assert message in result.stderr


def test_a_run_of_an_older_version_predicts_without_decisions(run_command: Run, trained: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "old" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    draw_photo(tmp_path / "photo.jpg", 0, 0)
    given = (f"ckpt={checkpoint}", "predict=photo.jpg", "callbacks.tta.n_aug=0")
    result = run_command("evaluate.py", *given, "hydra.run.dir=out")
    assert result.returncode == 0, result.stderr
    assert "no photo is called unsure or none" in result.stdout
    assert set(read_csv(tmp_path / "out" / "predictions.csv")[0]) == {"path", "predicted", "prob_cats", "prob_dogs"}
    result = run_command("evaluate.py", *given, "keep=0.9")
    assert result.returncode == 1
    assert "keep=0.9:" in result.stderr


@pytest.mark.parametrize(
    "form", ["onnx", *(pytest.param(form, marks=pytest.mark.slow) for form in ("onnx-int8", "torch"))]
)
def test_exported_files_decide_as_the_predictor_does(
    form: str, run_command: Run, trained: Path, tmp_path: Path
) -> None:
    if form != "torch":
        pytest.importorskip("onnxscript")
    result = run_command("evaluate.py", f"run={trained}", f"export={form}", "hydra.run.dir=out")
    assert result.returncode == 0, result.stderr
    predictor = Predictor.load(trained)
    paths = sorted((trained.parent / "photos" / "valid").glob("*/*.jpg"))[:20]
    expected, _ = predictor.predict(paths, n_aug=0)
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    if form == "torch":
        extra = dict.fromkeys(("unsure_below", "none_above", "temperature"), "")
        program = torch.export.load(tmp_path / "out" / "photo.pt2", extra_files=extra).module()
        with torch.no_grad():
            found = [[value.numpy() for value in program(torch.from_numpy(photo.copy()))] for photo in photos]
    else:
        import onnxruntime

        name = "photo.onnx" if form == "onnx" else "photo-int8.onnx"
        session = onnxruntime.InferenceSession(tmp_path / "out" / name, providers=["CPUExecutionProvider"])
        assert [output.name for output in session.get_outputs()] == ["probabilities", "unlike"]
        extra = session.get_modelmeta().custom_metadata_map
        found = [session.run(None, {"photo": photo}) for photo in photos]
    assert expected.unlike is not None
    assert predictor.reliability is not None
    plain = predictor.reliability.plain
    assert float(extra["unsure_below"]) == plain.thresholds.unsure_below
    assert float(extra["temperature"]) == plain.temperature
    none = [unlike > float(extra["none_above"]) for _, unlike in found]
    if form == "onnx-int8":
        assert sum(none) <= 5  # of 20, while the threshold of the other files would call all of them none
        return
    assert float(extra["none_above"]) == plain.thresholds.none_above
    assert none == [decision == "none" for decision in expected.decisions]
    np.testing.assert_allclose([unlike for _, unlike in found], expected.unlike, atol=0.02)
    np.testing.assert_allclose([values for values, _ in found], expected.probabilities, atol=0.01)


@pytest.mark.slow
def test_what_cannot_be_measured_fails_no_run(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw_root(tmp_path / "photos", train=2, valid=1)
    common = (f"data.root={root}", *TINY, "recipe=head_only", "callbacks.reports=null")
    result = run_command("train.py", *common, "hydra.run.dir=tiny")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "tiny" / "reliability.json").read_text())["plain"]["kept"] == 1
    monkeypatch.setattr(StrangerDetector, "fit", lambda *_: 1 / 0)
    result = run_command("train.py", *common, "hydra.run.dir=odd")
    assert result.returncode == 0, result.stderr
    assert "No calibration, and no photo is called unsure or none: ZeroDivisionError" in result.stdout + result.stderr
    assert not (tmp_path / "odd" / "strangers.npz").exists()
    assert "decision" not in read_csv(tmp_path / "odd" / "predictions_valid.csv")[0]


def test_a_thousand_classes_and_half_precision() -> None:
    torch.manual_seed(0)
    model = Classifier(Backbone(TinyNetwork(), last_early="first", channels=8), 1000)
    features = model.body(torch.randint(256, (30, 3, 32, 32), dtype=torch.uint8)).detach()
    labels = (torch.arange(30) % 2).tolist()
    photos = TrainingPhotos(features, None, labels, 2, lambda: [8, 8])
    signs = [sign.fit(photos) for sign in (Distance, Disagreement, Energy)]
    model.scorer = StrangerDetector([sign for sign in signs if sign], [str(row) for row in range(30)])
    assert model.scorer.num_scores == 3
    for precision in (torch.float16, torch.bfloat16, torch.float64):
        assert isinstance(model.to(precision).scorer, StrangerDetector)
        assert {value.dtype for value in model.scorer.buffers() if value.is_floating_point()} == {torch.float32}
        model.float()
        given = features.to(precision)
        computed = ForwardPass(given, model.heads.each(features).to(precision))
        scores = model.scorer.scores(computed)
        assert scores.isfinite().all()
        assert scores.dtype == torch.float32


def test_the_second_sign_is_the_first_that_applies() -> None:
    features, labels = clouds(30, 3, 0), [row % 2 for row in range(30)]
    size = features.shape[1]
    for widths, classes, expected in (
        ([size, 4], 2, []), ([size], 2, [Disagreement]), ([size], MAX_CLASSES + 1, [Energy])
    ):  # fmt: skip
        depths = features[:, :4] if len(widths) > 1 else None
        photos = TrainingPhotos(features, depths, labels, classes, lambda widths=widths: widths)
        detector = StrangerDetector.fit(photos, [str(row) for row in range(30)])
        assert [type(sign) for sign in detector.signs] == [Distance, *expected]
        arrays = detector.arrays()
        restored = StrangerDetector.restore(arrays, detector.paths)
        assert [type(sign) for sign in restored.signs] == [Distance, *expected]
        with pytest.raises(UserError, match="signs of another version"):
            StrangerDetector.restore(arrays | {"median": torch.zeros(5)}, detector.paths)
