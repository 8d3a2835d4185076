"""The verdict on a run in words, and the texts that it is made of."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_report_page import Page, draw_run

from dogscats.base.files import write_csv
from dogscats.base.text import counted, percent, percents
from dogscats.report.card import write_card
from dogscats.report.facts import Facts
from dogscats.report.page import write_page
from dogscats.report.run_files import FILES, log_written
from dogscats.report.verdict import AUGMENTED, verdict

FALLING = [(0.5, 0.4), (0.4, 0.3), (0.3, 0.25)]


@pytest.fixture
def draw(tmp_path: Path) -> Any:
    """Draws a run of bees and ants from what the verdict looks at; without arguments nothing stands in the way."""

    def drawn(
        valid: Any = ((60, 10), (5, 65)), test: Any = None, losses: Any = FALLING, cut_off: float = 0.1,
        repeated: int = 0, augmented: Any = (), loo: Any = None, **config: Any,
    ) -> Path:  # fmt: skip
        folder = draw_run(tmp_path / "run", ["bees", "ants"])
        metrics = json.loads((folder / "metrics.json").read_text()) | {"cut_off": cut_off}
        final: dict[str, Any] = dict(zip(AUGMENTED, augmented, strict=False))
        for split, counts in (("valid", valid), ("test", test)):
            if counts:
                n, right = sum(map(sum, counts)), sum(row[label] for label, row in enumerate(counts))
                final |= {f"{split}_acc": right / n, f"{split}_loss": 0.5, "n" if split == "valid" else "n_test": n}
                final["confusion_matrix" if split == "valid" else "test_confusion_matrix"] = counts
        if loo:
            n, right = sum(map(sum, loo)), sum(row[label] for label, row in enumerate(loo))
            final |= {"loo_acc": right / n, "loo_loss": 0.5, "n_loo": n, "loo_confusion_matrix": loo}
        (folder / "metrics.json").write_text(json.dumps(metrics | {"final": final}))
        rows = [("second", epoch, *both, 0.9) for epoch, both in enumerate(losses)]
        write_csv(folder / "history.csv", ["stage", "epoch", "train_loss", "valid_loss", "valid_acc"], rows)
        photos = [("train", f"{number}.jpg", 9, number, "bees") for number in range(20)]
        photos += [
            ("valid", f"v{number}.jpg", 9, number if number < repeated else -1 - number, "ants") for number in range(10)
        ]
        write_csv(folder / "photos.csv", ["split", "path", "bytes", "sample", "label"], photos)
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        del settings["recipe"]["second"]["keep"]
        (folder / "config.yaml").write_text(yaml.safe_dump(settings | config))
        return folder

    return drawn


def test_a_good_run_has_a_headline_and_nothing_in_its_way(draw: Any) -> None:
    found = verdict(Facts(draw()))
    assert found.obstacles == []
    assert found.headline == (
        "Right on 125 of 140 validation photos (89 %; 95 % interval 83 to 93 %). "
        "Most often bees are taken for ants (10 of 70)."
    )


def test_with_a_labelled_test_set_the_headline_is_the_tests(draw: Any) -> None:
    run = draw(test=((31, 9), (6, 34)))
    expected = (
        "Right on 65 of 80 test photos (81 %; 95 % interval 71 to 88 %). Most often bees are taken for ants (9 of 40)."
    )
    assert verdict(Facts(run)).headline == expected
    assert expected in Page(write_page(run)).text
    assert expected in write_card(run).read_text()


def test_leave_one_out_stands_beside_validation(draw: Any) -> None:
    weights = {"_target_": "dogscats.resnet34", "weights": "/home/me/own.pth"}
    found = verdict(Facts(draw(valid=((2, 0), (1, 1)), loo=((50, 10), (5, 35)), model=weights)))
    assert found.headline.startswith("Right on 3 of 4 validation photos")
    loo = "By leave-one-out: right on 85 of 100 training photos (85 %; 95 % interval 77 to 91 %)."
    assert found.headline.endswith(loo)
    few, unknown = found.obstacles
    assert few.endswith("Leave-one-out is better for that: optimized_metric=final.loo_acc.")
    assert "if the network in model.weights=own.pth was not trained on these photos" in unknown


def test_leave_one_out_takes_the_place_of_validation(draw: Any) -> None:
    alone = verdict(Facts(draw(valid=None, loo=((50, 10), (5, 35)))))
    assert alone.headline.startswith("Right on 85 of 100 left-out training photos (85 %")
    assert "By leave-one-out" not in alone.headline


def test_all_right(draw: Any) -> None:
    run = draw(valid=((60, 0), (0, 60)))
    assert verdict(Facts(run)).headline == "Right on all 120 validation photos (100 %; 95 % interval 97 to 100 %)."
    assert "1.000" not in Page(write_page(run)).text


@pytest.mark.parametrize(
    ("words", "triggers", "does_not"),
    [
        ("Only 99 validation photos", {"valid": ((49, 0), (1, 49))}, {"valid": ((49, 0), (1, 50))}),
        ("No better than always saying ants", {"valid": ((10, 50), (10, 81))}, {"valid": ((10, 50), (9, 82))}),
        ("(2 of 60)", {"valid": ((2, 58), (0, 90))}, {"valid": ((40, 20), (0, 90))}),
        ("validation loss rose", {"losses": [(0.5, 0.3), (0.4, 0.35)]}, {"losses": [(0.5, 0.3), (0.6, 0.35)]}),
        ("validation loss rose", {"losses": [(0.5, 0.3), (0.4, 0.35)]}, {"losses": FALLING}),
        ("data.fit=pad", {"cut_off": 0.11}, {"cut_off": 0.1}),
        ("1 of the 10 validation photos", {"repeated": 1}, {}),
        ("augment=crops", {"augmented": (0.6, 0.1)}, {"augmented": (0.8, 0.1)}),
        ("trial run", {"trainer": {"fast_dev_run": True}}, {}),
    ],
)
def test_what_stands_in_the_way(draw: Any, tmp_path: Path, words: str, triggers: Any, does_not: Any) -> None:
    run = draw(**triggers)
    assert any(words in obstacle for obstacle in verdict(Facts(run)).obstacles)
    run.rename(tmp_path / "before")
    assert not any(words in obstacle for obstacle in verdict(Facts(draw(**does_not))).obstacles)


def test_page_and_card_say_what_stands_in_the_way(draw: Any) -> None:
    run = draw(repeated=2)
    assert "2 of the 10 validation photos are among the training photos" in Page(write_page(run)).text
    assert "2 of the 10 validation photos are among the training photos" in write_card(run).read_text()


def test_a_damaged_file_costs_one_sentence(draw: Any, caplog: Any) -> None:
    run = draw(losses=[("x", "y")], repeated=1)
    assert len(verdict(Facts(run)).obstacles) == 1
    assert "overfitting" in caplog.text


def test_the_files_are_listed_with_what_they_are_for(tmp_path: Path, caplog: Any) -> None:
    names = ["a.txt", "checkpoints/last.ckpt", "most_wrong.png", "predictions_valid.csv", "report.html", "config.yaml"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    caplog.set_level("INFO")
    log_written(tmp_path)
    lines = caplog.text.splitlines()
    start = next(number for number, line in enumerate(lines) if "open first" in line)
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == [
        *("report.html", "most_wrong.png", "predictions_valid.csv"),
    ]
    for name in names[1:]:
        assert any(name in line and FILES[name] in line for line in lines)


def test_counts_and_shares_as_people_read_them() -> None:
    assert [counted(*each) for each in ((1, "photo"), (2, "epoch"), (0, "class"), (3, "copy"))] == [
        *("1 photo", "2 epochs", "0 classes", "3 copies"),
    ]
    assert [
        percent(*each) for each in ((65 / 80, 80), (0.9876, 2000), (1.0, 9), (1999 / 2000, 2000), (299 / 300, 300))
    ] == [
        *("81 %", "98.8 %", "100 %", "99.95 %", "99.7 %"),
    ]
    assert percents([1 / 3] * 3) == ["33.4 %", "33.3 %", "33.3 %"]
    assert percents([0.99999, 0.00001]) == ["99.9 %", "0.1 %"]
    assert percents([1.0, 0.0]) == ["99.9 %", "0.1 %"]
