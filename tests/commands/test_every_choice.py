"""Every method, and every backbone, from the command line: trained, resumed, judged, drawn, reported, exported.

A new file in configs/method or configs/backbone is tested without a line here.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from simclr.runs.assemble import assemble
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint, previous_checkpoint
from simclr.runs.compose import compose_config
from simclr.runs.configs import CONFIGS
from tests.conftest import TINY_RUN, Run, only_run
from tests.methods.test_every_method import KNOWN, METHODS, batch

BACKBONES = sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml"))
# What a choice has no default of, and what it learns from.
CAPTIONS = ("data.captions=true",)
NEEDED: dict[str, tuple[str, ...]] = {
    "timm": ("backbone.name=test_efficientnet",),
    "clip": CAPTIONS,
    "slip": CAPTIONS,
}
# Heads of thousands of features take time and lose none of the way; at such a size every pair takes a step, below.
NARROW = ("head.hidden_features=64", "head.out_features=64")
NEEDED |= dict.fromkeys(("simsiam", "moco_v3", "barlow_twins", "vicreg", "lejepa", "byol"), NARROW)
MANY_VIEWS = ("simclr", "byol")
CHOICES = [
    *(pytest.param((f"method={name}", *NEEDED.get(name, ())), id=name) for name in METHODS),
    *(pytest.param((f"backbone={name}", *NEEDED.get(name, ())), id=name) for name in BACKBONES),
    *(pytest.param((f"method={name}", "augmentation=multicrop"), id=f"{name}-multicrop") for name in MANY_VIEWS),
]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_it_goes_the_whole_way(run: Run, tmp_path, choice):
    run("train.py", *TINY_RUN, *choice, "evaluate=[linear,knn]")
    run_dir = only_run(tmp_path / "outputs")
    assert choice[0].partition("=")[2] in run_dir.name or choice[0] == "backbone=resnet18"

    run("train.py", *TINY_RUN, *choice, f"resume={previous_checkpoint(run_dir)}", "output_root=resumed")
    whole, resumed = (load_checkpoint(last_checkpoint(path)) for path in (run_dir, only_run(tmp_path / "resumed")))
    assert whole["global_step"] == resumed["global_step"]
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], tensor), name

    judged = ["linear_eval", "knn_eval"]
    if "method" in choice[0] and "multicrop" not in choice[-1]:  # the rest asks neither for backbone nor for views
        run("linear_eval.py", f"run={run_dir}", "layer=head")
        judged.append("linear_eval_head")
        run("simclr.visualize", f"run={run_dir}", "figures=[neighbours,augmented_pairs]")
        assert (run_dir / "figures" / "neighbours.png").exists()
        run("simclr.report", "outputs")
        assert (tmp_path / "outputs" / "report" / "report.html").exists()
    for name in judged:
        assert 0 <= json.loads((run_dir / f"{name}.json").read_text("utf-8"))["top1"] <= 100

    run("simclr.export", f"run={run_dir}", "output=mine.safetensors")
    exported = load_file(tmp_path / "mine.safetensors")
    trained = {n.removeprefix("backbone."): t for n, t in whole["state_dict"].items() if n.startswith("backbone.")}
    assert exported.keys() == trained.keys()
    assert all(torch.equal(exported[name], trained[name]) for name in trained)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", METHODS)
def test_every_pair_takes_a_step(method, backbone):
    """In bfloat16; in float32 each method and each backbone goes the whole way."""
    choices = ("data=shapes", "data.size=32", f"method={method}", f"backbone={backbone}", *NEEDED.get(backbone, ()))
    assembly = assemble(compose_config(*choices))
    assembly.method.prepare(KNOWN)
    views = batch(assembly)
    learning = [parameter for group in assembly.method.parameter_groups() for parameter in group["params"]]
    with torch.autocast("cpu", torch.bfloat16):
        loss = assembly.method.compute(views)["loss"]
    loss.backward()
    assert loss.isfinite()
    for parameter in learning:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    torch.optim.SGD(learning, lr=1e-3).step()
    assembly.method.after_step(0.5)
    assert assembly.method.compute(views)["loss"].isfinite()
