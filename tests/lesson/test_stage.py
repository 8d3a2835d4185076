import pytest

from dogscats.base.errors import UserError
from dogscats.lesson.stage import Stage, make_stages


def test_group_learning_rates() -> None:
    assert Stage("s", lr=1e-2, epochs=1).group_lrs() == pytest.approx((1e-4, 1e-3, 1e-2))
    assert Stage("s", lr=1.0, lr_mult=[1, 2, 3], epochs=1).group_lrs() == (1, 2, 3)
    assert Stage("s", lr=[1e-5, 1e-4, 1e-3], lr_mult=[9, 9, 9], epochs=1).group_lrs() == (1e-5, 1e-4, 1e-3)


def test_total_epochs_add_up_the_cycles() -> None:
    assert Stage("s", lr=1, epochs=5).total_epochs == 5
    assert Stage("s", lr=1, cycles=3).total_epochs == 3
    assert Stage("s", lr=1, cycles=3, cycle_len=1, cycle_mult=2).total_epochs == 1 + 2 + 4
    assert Stage("s", lr=1, cycles=2, cycle_len=3, cycle_mult=3).total_epochs == 3 + 9


@pytest.mark.parametrize(
    ("keys", "culprit"),
    [
        ({"lr": -1, "epochs": 1}, "recipe.finetune.lr=-1"),
        ({"lr": "fast", "epochs": 1}, "recipe.finetune.lr=fast"),
        ({"lr": float("nan"), "epochs": 1}, "recipe.finetune.lr=nan"),
        ({"lr": [1e-3, 1e-2], "epochs": 1}, "recipe.finetune.lr="),
        ({"lr": 1, "lr_mult": [1, 1], "epochs": 1}, "recipe.finetune.lr_mult="),
        ({"lr": 1}, "neither"),
        ({"lr": 1, "epochs": 1, "cycles": 1}, "both"),
        ({"lr": 1, "epochs": 0}, "recipe.finetune.epochs=0"),
        ({"lr": 1, "epochs": 1.5}, "recipe.finetune.epochs=1.5"),
        ({"lr": 1, "cycles": 2, "cycle_mult": 0}, "recipe.finetune.cycle_mult=0"),
        ({"lr": 1, "epochs": 1, "freeze_to": 3}, "recipe.finetune.freeze_to=3"),
        ({"lr": 1, "epochs": 1, "precompute": "yes"}, "recipe.finetune.precompute=yes"),
        ({"lr": 1, "epochs": 1, "precompute": True, "freeze_to": 0}, "recipe.finetune.freeze_to=0"),
        ({"lr": 1, "epochs": 1, "precompute": True, "augment": True}, "recipe.finetune.augment=true"),
        ({"lr": 1, "epochs": 1, "save": "a/b"}, "recipe.finetune.save=a/b"),
        ({"lr": 1, "epochs": 1, "momentum": 0.9}, "recipe.finetune.momentum"),
        ({"epochs": 1}, "recipe.finetune.lr is missing"),
        ({"lr": 1, "epochs": 1, "fit": "quick"}, "recipe.finetune.fit=quick"),
        ({"fit": "closed_form"}, "recipe.finetune.fit=closed_form: it needs precomputed activations"),
    ],
)
def test_a_bad_value_is_refused_by_its_key(keys: dict[str, object], culprit: str) -> None:
    with pytest.raises(UserError) as raised:
        make_stages({"finetune": keys})
    assert culprit in str(raised.value)


def test_no_stage_follows_a_fit_in_closed_form() -> None:
    trained, fitted = {"lr": 1e-2, "epochs": 1}, {"fit": "closed_form", "precompute": True, "keep": "best"}
    assert [stage.unused for stage in make_stages({"train": trained, "fit": fitted})] == [[], ["keep"]]
    with pytest.raises(UserError, match=r"recipe\.train: no stage can follow recipe\.fit"):
        make_stages({"fit": fitted, "train": trained})


def test_an_empty_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="no stages"):
        make_stages({})
