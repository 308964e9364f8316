"""What the code behind a configuration refuses is said of the key that its user would write."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from simclr.errors import InputError
from simclr.runs.assemble import assemble
from simclr.runs.build import build
from simclr.runs.compose import prefer_own_configs
from simclr.runs.configs import CONFIGS


def composed(*overrides: str) -> DictConfig:
    prefer_own_configs()  # as every command does; what the files refer to is known then
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", ["data=shapes", "data.train_count=4", "data.val_count=4", "data.size=16", *overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("augmentation.hue=0.7",), "augmentation.hue=0.7 is not usable"),
        (("augmentation.views=0",), "augmentation.views=0 is not usable"),
        (("augmentation.views=1",), "this method cannot learn from this augmentation: contrasting takes two views"),
        (("augmentation.views=[{},{hue: 0.7}]",), "augmentation.views[1].hue=0.7 is not usable"),
        (("augmentation.views=[{},{tint: 1}]",), "augmentation.views[1].tint=1 is not usable: a recipe has size"),
        (("temperature=0",), "temperature=0 is not usable"),
        (("method.temperature=0",), "method.temperature=0 is not usable"),
        (("method.micro_batch=0",), "method.micro_batch=0 is not usable"),
        (("head.hidden_features=0",), "head.hidden_features=0 is not usable"),
        (
            ("+method.tau=1",),
            "method.tau=1 is not usable: SimCLR takes temperature, micro_batch, decoupled, backbone, head",
        ),
        (("+head.depth=3",), "head.depth=3 is not usable: ProjectionHead takes in_features, hidden_features"),
        (("+scheduler.cycles=1",), "scheduler.cycles=1 is not usable: cosine takes optimizer"),
        (("+augmentation.tint=1",), "augmentation.tint=1 is not usable: a recipe has size"),
        (("backbone.stem=tiny",), "backbone.stem=tiny is not known"),
    ],
)
def test_a_refusal_names_the_key(overrides, message):
    with pytest.raises(InputError) as error:
        assemble(composed(*overrides))
    assert str(error.value).startswith(message)


def test_torchs_own_words_stand_behind_the_group():
    method = assemble(composed("optimizer.lr=-1")).method
    with pytest.raises(InputError, match=r"^optimizer: Invalid learning rate: -1"):
        method.make_optimizer(method.parameter_groups())


def test_a_key_without_a_value_is_named():
    with pytest.raises(InputError, match="root has no default; give it a value"):
        build(OmegaConf.create({"_target_": "simclr.data.folder.ImageFolder", "root": "???"}))
