"""The head in closed form: leave-one-out is what fitting without the photo gives; what is stored is what was fitted."""

from pathlib import Path

import pytest
import torch
from conftest import draw_root
from torch import nn

from dogscats import DogsCatsDataModule, timm_backbone
from dogscats.kernel import kernel_head, kernel_ridge
from dogscats.kernel.kernel_head import KernelFit, KernelHead
from dogscats.kernel.kernel_ridge import Exact, Nystroem

WIDTHS = [6, 20]


def drawn(count: int, classes: int = 3, spread: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two depths, the second a thousand times larger, that tell classes apart if they do not spread."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    means = torch.randn(classes, sum(WIDTHS), generator=generator)
    features = (means[labels] + spread * torch.randn(count, sum(WIDTHS), generator=generator)).relu()
    return features * torch.tensor([1.0] * WIDTHS[0] + [1000.0] * WIDTHS[1]), labels


def fitted(features: torch.Tensor, labels: torch.Tensor, **arguments: object) -> KernelFit:
    return KernelHead.fit(features, labels, int(labels.max()) + 1, WIDTHS, **arguments)  # type: ignore[arg-type]


@pytest.fixture
def approximated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits with more than 20 photos use 15 centers, and read features in blocks."""
    monkeypatch.setattr(kernel_head, "MAX_EXACT", 20)
    monkeypatch.setattr(kernel_head, "CENTERS", 15)
    monkeypatch.setattr(kernel_ridge, "ROWS", 8)


def test_a_photo_left_out_is_predicted_as_by_a_regression_without_its_group() -> None:
    features, labels = drawn(30, spread=2.0)
    groups = torch.arange(30)
    groups[[4, 9, 20]] = 4
    fit = fitted(features, labels, groups=groups, class_weights=[1.0, 2.0, 3.0])
    kernel = fit.head.kernel(fit.head.points.double(), fit.head.rest.double())
    targets = 2 * nn.functional.one_hot(labels, 3).double() - 1
    # The penalties follow from the fit: (K + penalties) coefficients = targets.
    penalties = (targets - kernel @ fit.head.coefficients.double())[:, 0] / fit.head.coefficients[:, 0].double()
    weights = torch.tensor([1.0, 2.0, 3.0])[labels]
    torch.testing.assert_close(penalties * weights, (penalties * weights)[0].expand(30), rtol=1e-3, atol=0.0)
    for photo in (0, 9):
        rest = (groups != groups[photo]).nonzero().flatten()
        alone = Exact(kernel[rest][:, rest], targets[rest], penalties[rest])
        expected = kernel[photo, rest] @ alone.coefficients
        torch.testing.assert_close(fit.scores[photo].double(), expected, rtol=1e-3, atol=1e-3)
        version = fit.left_out(features[[photo]], torch.tensor([photo]))  # as stored, which is rounded
        torch.testing.assert_close(version[0], fit.log_probabilities[photo], rtol=1e-2, atol=1e-2)


def test_many_photos_left_out_are_predicted_as_by_a_regression_without_them(approximated: None) -> None:
    features, labels = drawn(30, spread=2.0)
    groups = torch.arange(30)
    groups[[4, 9, 20]] = 4
    fit = fitted(features, labels, groups=groups, class_weights=[1.0, 2.0, 3.0])
    assert isinstance(fit.regression, Nystroem)
    assert len(fit.head.points) == 15
    regression = fit.regression
    for photo in (0, 9):
        rest = groups != groups[photo]
        weights, targets = regression.weights[rest], regression.targets[rest]
        rows, kernel = rest.nonzero().flatten(), regression.kernel
        head = fit.head
        centers = head.kernel(head.points.double(), head.rest.double())
        alone = Nystroem(
            lambda some, rows=rows, kernel=kernel: kernel(rows[some]), centers, targets, weights, regression.penalty
        )
        expected = kernel(torch.tensor([photo])) @ alone.coefficients
        torch.testing.assert_close(fit.scores[[photo]].double(), expected, rtol=1e-4, atol=1e-4)
        version = fit.left_out(features[[photo]], torch.tensor([photo]))
        torch.testing.assert_close(version[0], fit.log_probabilities[photo], rtol=1e-2, atol=1e-2)


def test_few_centers_predict_much_as_all_photos_do(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(600)
    exact = fitted(features[:300], labels[:300])
    monkeypatch.setattr(kernel_head, "MAX_EXACT", 200)
    monkeypatch.setattr(kernel_head, "CENTERS", 150)
    approximate = fitted(features[:300], labels[:300])
    accuracy = [
        (fit.head(features[300:]).argmax(dim=1) == labels[300:]).double().mean().item() for fit in (exact, approximate)
    ]
    assert accuracy[0] > 0.9
    assert accuracy[1] == pytest.approx(accuracy[0], abs=0.02)
    assert approximate.accuracy == pytest.approx(accuracy[1], abs=0.04)
    assert exact.accuracy == pytest.approx(accuracy[0], abs=0.04)


def test_all_depths_count_the_same_and_what_does_not_vary_counts_nothing() -> None:
    features, labels = drawn(60)
    head = fitted(features, labels).head
    lengths = [part.square().sum(dim=1).mean() for part in head.project(features)[0].split(WIDTHS, dim=1)]
    assert lengths[0] == pytest.approx(lengths[1].item(), rel=0.05)
    rescaled = features * torch.tensor([50.0] * WIDTHS[0] + [1.0] * WIDTHS[1])
    torch.testing.assert_close(fitted(rescaled, labels).head(rescaled), head(features), rtol=1e-3, atol=1e-3)
    features[:, : WIDTHS[0]] = 7.0
    assert fitted(features, labels).head(features).isfinite().all()


def test_photos_of_a_class_in_a_single_group_are_not_scored() -> None:
    features, labels = drawn(30)
    labels[7] = 3
    groups = torch.arange(30)
    groups[labels == 2] = 100
    fit = fitted(features, labels, groups=groups)
    assert torch.equal(fit.scored, (labels != 3) & (labels != 2))
    only = fitted(*drawn(3))  # one photo of each class
    assert not only.scored.any()
    assert only.head(drawn(3)[0]).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_fitting_everything_anew_without_each_photo_gives_the_same_accuracy(seed: int, tmp_path: Path) -> None:
    data = DogsCatsDataModule(draw_root(tmp_path, train=20, valid=1), size=32, num_workers=0)
    data.setup()
    torch.manual_seed(seed)
    body = timm_backbone("test_resnet", "none", features="all").eval()
    with torch.no_grad():
        features = torch.cat([body(batch.inputs) for batch in data.loader(data.train_dataset("fit", augment=False))])
    labels, widths = torch.tensor(data.train.labels), body.widths(32)
    for shuffled in (labels, labels[torch.randperm(40)]):
        right = 0
        for photo in range(40):
            rest = torch.arange(40) != photo
            head = KernelHead.fit(features[rest], shuffled[rest], 2, widths).head
            right += int(head(features[[photo]]).argmax() == shuffled[photo])
        accuracy = KernelHead.fit(features, shuffled, 2, widths).accuracy
        assert abs(right / 40 - accuracy) <= (1 / 40 if shuffled is labels else 0.15)


@pytest.mark.parametrize("copies", [1, 2])
def test_shuffled_labels_are_predicted_no_better_than_by_chance(copies: int) -> None:
    features, labels = drawn(40, classes=2, spread=0.5)
    labels = labels[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    photos = torch.arange(40).repeat(copies)
    fit = fitted(features[photos], labels[photos], groups=photos)
    assert fit.accuracy <= 0.5 + 2 * (0.25 / 40) ** 0.5


def test_what_is_saved_predicts_the_same_and_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(100, spread=2.0)

    def check(fit: KernelFit, components: int) -> None:
        assert fit.head.config == {"widths": WIDTHS, "points": 100, "components": components}
        again = KernelHead(3, **fit.head.config)
        again.load_state_dict(fit.head.state_dict())
        assert torch.equal(again(features), fit.head(features))

    full = fitted(features, labels)
    check(full, 0)
    monkeypatch.setattr(kernel_head, "BYTES", (4000, 4000))
    monkeypatch.setattr(kernel_head, "BYTES_PER_POINT", 1)
    monkeypatch.setattr(kernel_head, "MAX_BYTES", 5000)
    small = fitted(features, labels)
    check(small, (4000 - 400 * 3) // (2 * (100 + 26)))
    size = sum(small.head.state_dict()[name].nbytes for name in ("points", "directions", "coefficients"))
    assert size <= 4000
    assert small.accuracy == pytest.approx(full.accuracy, abs=0.1)


def test_a_lower_precision_changes_nothing() -> None:
    features, labels = drawn(40)
    head = fitted(features, labels).head
    expected = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(features), expected)
    assert torch.equal(head.half().bfloat16()(features), expected)


def test_the_temperature_minimizes_the_log_loss_within_its_range() -> None:
    noisy = fitted(*drawn(90, spread=3.0))
    factor = noisy.head.temperature.item()
    factors = (factor, 0.9 * factor, 1.1 * factor)
    losses = [nn.functional.cross_entropy(f * noisy.scores, noisy.labels).item() for f in factors]
    assert losses[0] == min(losses)
    assert noisy.log_loss == pytest.approx(losses[0])
    assert fitted(*drawn(90, spread=0.01)).head.temperature == pytest.approx(20, rel=1e-3)


def test_a_heavier_class_is_predicted_more_often() -> None:
    features, labels = drawn(90, classes=2, spread=4.0)
    predicted = [
        fitted(features, labels, class_weights=weights).head(drawn(500, 2, 4.0, seed=1)[0]).argmax(dim=1).sum()
        for weights in ([1.0, 1.0], [1.0, 8.0])
    ]
    assert predicted[1] > predicted[0]
