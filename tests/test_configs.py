"""The configuration tree: every choice composes, names runs apart, and says what is wrong with a mistyped one."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict, read_write
from omegaconf.errors import InterpolationResolutionError
from torch import nn

from simclr.augment.recipe import Recipe
from simclr.runs.build import build, factory
from simclr.runs.compose import compose_config
from simclr.runs.configs import CONFIGS
from simclr.runs.weights import backbone_factory
from simclr.system.signals import Stop
from tests.conftest import REPOSITORY, Run

GROUPS = sorted({path.parent.name for path in CONFIGS.glob("*/*.yaml")})
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def composed(*overrides: str, sweep: bool = False):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        mode = ["hydra.mode=MULTIRUN"] if sweep else []
        config = compose("train", [*overrides, *mode], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def run_dir(*overrides: str) -> str:
    return composed(*overrides).hydra.run.dir


def test_the_recipe_is_the_default():
    config = composed()
    assert (config.epochs, config.batch_size, config.temperature, config.optimizer.lr) == (50, 256, 0.07, 3e-4)
    first, second = build(config.augmentation).views
    assert (
        first
        == second
        == Recipe(
            *(64, [0.08, 1.0], [0.75, 1.3333333], 0.5, 0.2, 128, 0.8, 0.8, 0.8, 0.8, 0.2, 0.2, 1.0, 7, [0.1, 2.0]),
            *("bilinear", False, None, None),
        )
    )
    assert build(composed("augmentation=baseline").augmentation).views[0].solarize_p == 0
    (blurred, solarised) = build(composed("augmentation=byol").augmentation).views
    assert (blurred.blur_p, blurred.solarize_p, solarised.blur_p, solarised.solarize_p) == (1.0, 0.0, 0.1, 0.2)
    sizes = [(view.size, view.blur_kernel) for view in build(composed("augmentation=multicrop").augmentation).views]
    assert sizes == [(64, 7)] * 2 + [(32, 3)] * 4
    assert build(config.head, in_features=512)[0].out_features == 256
    assert build(composed("head=baseline").head, in_features=512)[0].out_features == 512


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_compose_and_begin_with_how_to_run_them(experiment):
    config = composed(f"experiment={experiment}")
    OmegaConf.to_container(config.method, resolve=True)
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    assert re.search(rf"# Run:    .*python train\.py (-m )?experiment={experiment}\b", text)
    for heading in ("# Time:", "# Expect:"):
        assert heading in text


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_train_a_step(experiment, tmp_path):
    from simclr.commands.pretrain import pretrain

    tiny = (
        "data=shapes",
        "data.train_count=16",
        "data.val_count=4",
        "data.size=16",
        "batch_size=16",
        "epochs=1",
        "images_per_epoch=null",
        "evaluate=[]",
    )
    short = {"warmup_epochs": 0, "epochs_before_end": [0.5]}  # of a schedule that is made for more than one epoch
    own, reads_text = (
        composed(f"experiment={experiment}").scheduler,
        "tokenizer" in composed(f"experiment={experiment}"),
    )
    tiny += ("data.captions=true",) if reads_text else ()
    tiny += tuple(f"scheduler.{key}={value}" for key, value in short.items() if key in own)
    config = composed(f"experiment={experiment}", *tiny, "trainer.accelerator=cpu", "precision=32")
    with read_write(config.hydra.runtime), open_dict(config):
        config.hydra.runtime.output_dir = str(tmp_path)
        HydraConfig.instance().set_config(config)
        del config["hydra"]
    pretrain(config, Stop(75))
    assert json.loads((tmp_path / "metrics.json").read_text())["images_seen"] == 16


@pytest.mark.parametrize("experiment", ["wmse_simclr", "wmse_byol"])
def test_wmses_settings(experiment):
    """Each value from the authors' code (github.com/htdt/self-supervised), which resizes by Pillow's bicubic filter."""
    config = composed(f"experiment={experiment}")
    assert (config.epochs, config.batch_size, config.data._target_) == (1000, 512, composed().data._target_)
    views = build(config.augmentation).views
    crop = {"size": 64, "crop_scale": [0.2, 1.0], "crop_ratio": [0.75, 1.3333333], "interpolation": "bicubic"}
    colour = {"jitter_p": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "grayscale_p": 0.1}
    rest = {"color_first": True, "flip_p": 0.5, "blur_p": 0, "solarize_p": 0}
    normal = {"mean": [0.480, 0.448, 0.398], "std": [0.277, 0.269, 0.282]}
    assert [{key: getattr(view, key) for key in crop | colour | rest | normal} for view in views] == [
        crop | colour | rest | normal
    ] * 2

    network = backbone_factory(config.backbone)()
    stem = network.conv1
    assert (stem.kernel_size, stem.stride, type(network.maxpool)) == ((3, 3), (1, 1), nn.MaxPool2d)
    head = build(config.head, in_features=512)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert (head[0].in_features, head[0].out_features, head[3].out_features) == (512, 1024, 128)

    weights = [nn.Parameter(torch.zeros(1))]
    optimizer = factory(config.optimizer)(weights)
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (2e-3, 1e-6)
    assert optimizer.defaults["betas"] == torch.optim.Adam(weights).defaults["betas"]
    steps = 100_000 // 512
    (rate,) = factory(config.scheduler)(optimizer, total_steps=1000 * steps, steps_per_epoch=steps).lr_lambdas
    assert [rate(step) for step in (0, 249, 499, 500, 950 * steps - 1)] == pytest.approx([1 / 500, 0.5, 1, 1, 1])
    assert [rate(step) for step in (950 * steps, 975 * steps - 1, 975 * steps)] == pytest.approx([0.2, 0.2, 0.04])

    method = config.method
    if experiment == "wmse_simclr":
        assert (method._target_, method.temperature) == (composed("method=simclr").method._target_, 0.5)
    else:
        assert (method._target_, method.momentum) == (composed("method=byol").method._target_, 0.99)
        predictor = factory(method.predictor)(in_features=128, out_features=128)
        assert [type(layer) for layer in predictor] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        assert (predictor[0].out_features, predictor[3].out_features) == (1024, 128)


def test_the_study_is_the_recipe_with_the_studys_schedule():
    study, default = composed("experiment=study"), composed()
    for key in default:
        if key not in ("scheduler", "hydra", "name"):
            assert study[key] == default[key]
    assert study.scheduler.half_period_epochs == 390


def test_the_baseline_experiment_is_the_baseline_command():
    assert run_dir("experiment=baseline") == run_dir("augmentation=baseline", "head=baseline")


def test_every_key_of_every_choice_is_used():
    """Each option names a `_target_` that takes every key it gives: no key is left unread."""
    import inspect

    from hydra.utils import get_object

    for path in CONFIGS.glob("*/*.yaml"):
        if path.parent.name in ("experiment", "hydra"):
            continue
        content = OmegaConf.load(path)
        content.pop("defaults", None)
        for node in content.values() if path.parent.name == "callbacks" else [content.get("protocol", content)]:
            if "_target_" in node:
                accepted = inspect.signature(get_object(node["_target_"])).parameters
                given = {key for key in node if not key.startswith(("_", "pretrained_"))}  # simclr/runs/weights.py
                variadic = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
                assert variadic or given <= accepted.keys(), path


def test_a_run_directory_belongs_to_one_configuration():
    assert run_dir() == run_dir("epochs=50")
    assert run_dir() == run_dir("resume=never")
    assert Path(run_dir()).parent == Path("outputs")
    changed = (
        "seed=1",
        "epochs=51",
        "optimizer.lr=1e-3",
        "head=baseline",
        "augmentation.hue=0.1",
    )
    names = {Path(run_dir(override)).name for override in (*changed, "seed=0")}
    assert len(names) == len(changed) + 1
    assert Path(run_dir("output_root=/elsewhere")).parts[1] == "elsewhere"
    assert Path(run_dir("name=mine")).name.startswith("mine-")
    assert Path(run_dir("name=mine", "seed=1")) != Path(run_dir("name=mine"))


def test_a_name_has_a_word_for_each_choice_that_is_not_the_usual_one():
    def name(*overrides: str) -> str:
        return composed(*overrides).name

    assert name() == name("epochs=3", "optimizer.lr=1e-3", "data=tiny_imagenet") == "simclr-modified-slim-seed0"
    assert name("data=shapes") == name("experiment=quickstart") == "simclr-modified-slim-shapes-seed0"
    assert name("backbone.stem=small", "seed=2") == "simclr-modified-slim-small_stem-seed2"
    assert name("data=image_folder", "scheduler=study") == "simclr-modified-slim-image_folder-study-seed0"
    assert Path(composed("data=shapes", sweep=True).hydra.sweep.subdir).name.startswith("simclr-modified-slim-shapes-")


def test_a_sweep_has_a_root_and_a_folder_of_its_own():
    hydra = composed("seed=3", sweep=True).hydra
    assert hydra.sweep.dir == "multirun/grid"
    assert hydra.sweep.subdir.startswith("simclr-modified-slim-seed3-")
    assert composed("sweep=mine", "output_root=x", sweep=True).hydra.sweep.dir == "x/mine"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("epoch=3", "Did you mean epochs? Allowed: "),
        ("head.hidden=3", "hidden is not a key of head. Allowed: hidden_features, out_features."),
        ("optimizer.lrr=3", "Did you mean lr?"),
        ("head=slimm", "Available options in 'head':\n\tbaseline\n\tbyol\n"),
        ("heads=slim", "Did you mean head?"),
        ("data=image_folder data.rot=x", "rot is not a key of data. Did you mean root?"),
    ],
)
def test_a_mistyped_override_says_what_is_allowed(run: Run, override, said):
    done = run("train.py", *override.split(), check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_of_a_group_that_is_not_chosen_says_so(run: Run):
    done = run("linear_eval.py", "run=x", "data.size=32", check=False)
    assert done.returncode == 1
    assert "size is not a key of data. Allowed: root, store." in done.stderr


@pytest.mark.parametrize("script", ["train.py", "linear_eval.py"])
def test_help_shows_commands_and_groups(run: Run, script):
    help_text = run(script, "--help").stdout
    assert f"python {script}" in help_text
    if script == "train.py":
        assert "augmentation: baseline, byol, clip, gentle, modified, multicrop, slip" in help_text


def test_a_notebook_composes_what_the_command_does(run: Run):
    overrides = ("data=shapes", "head=baseline", "seed=3", "optimizer.lr=1e-3")
    shown = run("train.py", *overrides, "--cfg", "job", "--resolve").stdout
    assert compose_config(*overrides) == OmegaConf.create(shown)
    assert compose_config("protocol=knn", command="linear_eval").protocol.k == [1, 5, 10, 20, 50, 100, 200]


def test_composed_without_a_record_of_the_choices_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["data=shapes"])
    with pytest.raises(InterpolationResolutionError, match=r"use simclr\.runs\.compose\.compose_config"):
        _ = config.name


def test_showing_a_configuration_imports_no_torch():
    """Torch takes seconds to import; with it, --help and --cfg job could not answer at once."""
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: sys.exit(17 if 'torch' in sys.modules else 0)"
    )
    for arguments in (["train.py", "--cfg", "job"], ["train.py", "--help"], ["linear_eval.py", "--help"]):
        start = f"import sys; sys.argv = {arguments}\n{code}"
        done = subprocess.run([sys.executable, "-c", start], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0
        assert len(done.stdout) > 100
