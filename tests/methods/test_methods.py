"""What a training step does beside the loss: batches in parts, and losses that are not finite."""

import copy
import resource
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from simclr.data.batch import Views
from simclr.data.shapes import Shapes
from simclr.errors import InputError
from simclr.losses import info_nce
from simclr.methods.gradient_cache import embed_views
from simclr.methods.simclr import SimCLR
from simclr.models.backbone import resnet18_encoder
from simclr.models.heads import ProjectionHead
from simclr.optim.schedules import cosine
from simclr.training.datamodule import PretrainingData
from simclr.training.health import Health
from simclr.training.not_finite import NotFinite
from tests.augment.test_engines import RECIPE
from tests.conftest import TINY_RUN, Run, command, environment, only_run, scalars, two_views


def arguments(**more: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "backbone": partial(resnet18_encoder, "standard"),
        "head": partial(ProjectionHead, hidden_features=32, out_features=16),
        "optimizer": torch.optim.Adam,
        "scheduler": cosine,
        "temperature": 0.07,
    } | more


VIEWS = torch.rand(2, 10, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("micro_batch", [1, 3, 5])
def test_a_batch_in_parts_has_the_loss_and_every_gradient_of_the_whole(micro_batch):
    """Batch norm in eval mode: its training statistics are those of a part, as the docstring says."""
    whole = SimCLR(**arguments()).double().eval()
    parts = copy.deepcopy(whole)
    parts.micro_batch = micro_batch
    losses = []
    for method in (whole, parts):
        loss = method.compute(Views([*VIEWS], {}))["loss"]
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
    for (name, expected), found in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-10, msg=name)


def test_running_statistics_count_every_part_once():
    """Computed a second time for the gradient, a part must not move batch norm's statistics a second time."""
    trained, reference = SimCLR(**arguments()).double(), SimCLR(**arguments()).double()
    embeddings = embed_views(trained, Views([*VIEWS], {}), micro_batch=4)
    embeddings.square().sum().backward()
    with torch.no_grad():
        for part in VIEWS.split(4, dim=1):
            embed_views(reference, Views([*part], {}), micro_batch=None)
    norms = [module for module in trained.modules() if isinstance(module, _BatchNorm)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {3}
    for (name, expected), found in zip(reference.named_buffers(), trained.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, msg=name)
    assert all(parameter.grad is not None for parameter in trained.parameters())


def test_a_part_is_a_whole_number_of_images():
    with pytest.raises(ValueError, match="micro_batch=0 is not usable"):
        SimCLR(**arguments(micro_batch=0))


class Poisoned(SimCLR):
    """SimCLR whose images are not numbers in some steps."""

    def __init__(self, steps: set[int], **base: Any) -> None:
        super().__init__(**base)
        self.poisoned_steps = steps
        self.seen: list[dict[str, Tensor]] = []

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        self.seen.append({name: tensor.clone() for name, tensor in self.state_dict().items()})
        poison = torch.nan if self.global_step in self.poisoned_steps else 1.0
        return super().compute(Views([images * poison for images in views.images], {}))


def fit(
    method: SimCLR, policy: str = "stop", epochs: int = 2, callbacks: Sequence[pl.Callback] = (), **options: Any
) -> pl.Trainer:
    """Four steps an epoch."""
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[NotFinite(policy), *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(
        method, PretrainingData(Shapes(32, 10, 32, seed=0), two_views(replace(RECIPE, size=32)), batch_size=8, seed=0)
    )
    return trainer


def test_a_skipped_step_changes_nothing_but_is_counted():
    method = Poisoned({2, 5}, **arguments())
    trainer = fit(method, "skip")
    assert len(method.seen) == 8
    for before, after, changes in ((2, 3, False), (3, 4, True), (5, 6, False), (6, 7, True)):
        same = [torch.equal(method.seen[before][name], method.seen[after][name]) for name in method.seen[before]]
        assert all(same) != changes
    assert trainer.callback_metrics["train/skipped_steps"] == 2
    assert all(tensor.isfinite().all() for tensor in method.state_dict().values())


class Scaled(MixedPrecision):
    """FP16's scaler, and float32's numbers: a CPU takes minutes for a convolution in half precision."""

    def forward_context(self) -> Any:
        return nullcontext()


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_is_no_overflow_of_half_precision(fused):
    """The scaler that FP16 trains with keeps its scale, and no step is counted that it would have left out."""
    method = Poisoned({2, 5}, **arguments(optimizer=partial(torch.optim.Adam, fused=fused)))
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    health = Health()
    trainer = fit(method, "skip", callbacks=[health], plugins=[Scaled("16-mixed", "cpu", scaler)])
    assert len(method.seen) == 8
    for before, changes in ((2, False), (3, True), (5, False), (6, True)):
        now, then = method.seen[before], method.seen[before + 1]
        assert all(torch.equal(now[name], then[name]) for name in now) != changes
    assert trainer.callback_metrics["train/skipped_steps"] == 2
    assert scaler.get_scale() == 256.0
    assert health.state_dict() == {"overflow_steps": 0}


def test_what_a_skipped_step_computed_is_not_logged():
    """A callback that watches the loss would end the run, and the last value of the curve would be none."""
    trainer = fit(Poisoned({7}, **arguments()), "skip")
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.slow
def test_steps_that_are_all_bad_end_the_run():
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 12, .* in the 9 steps before"):
        fit(Poisoned(set(range(3, 40)), **arguments()), "skip", epochs=5)


def test_a_loss_that_is_not_finite_stops_before_weights_are_touched():
    method = Poisoned({3}, **arguments())
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 3, learning rate 0\.000\d+"):
        fit(method)
    assert all(p.isfinite().all() for p in method.parameters())
    assert len(method.seen) == 4


@pytest.mark.slow
def test_the_command_names_step_rate_and_last_good_checkpoint(run: Run, tmp_path):
    overrides = (*TINY_RUN, "optimizer.lr=1e30", "checkpoint_minutes=1e-6", "callbacks.online_knn=null")
    done = run("train.py", *overrides, check=False)
    assert done.returncode == 1
    last = only_run(tmp_path / "outputs") / "checkpoints" / "last.ckpt"
    assert f"error: the loss is nan at step 1, learning rate 9.62e+29; the last good checkpoint: {last}" in done.stderr
    assert "Traceback" not in done.stderr
    skipping = run("train.py", *overrides, "on_nan=skip", "data.train_count=256", check=False)
    assert skipping.stdout.count("The step is skipped: the loss is nan at step") == 9
    assert "in the 9 steps before" in skipping.stderr


def test_the_policy_is_one_of_two():
    with pytest.raises(InputError, match="on_nan=ignore is not known; choose stop or skip"):
        NotFinite("ignore")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "simsiam"])
def test_a_machine_that_is_too_small_is_told_what_helps(tmp_path, method):
    """10 GB of address space, for a batch whose activations need more; not every method takes it in parts."""
    limit = 10 * 2**30
    big = ("data=shapes", "data.train_count=3072", "data.val_count=10", "batch_size=3072", "epochs=1", "precision=32")
    done = subprocess.run(
        command("train.py", *big, f"method={method}", "callbacks.online_knn=null"),
        cwd=tmp_path,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1
    assert "error: out of memory" in done.stderr
    assert "use a smaller batch_size" in done.stderr
    assert ("method.micro_batch=" in done.stderr) == (method == "simclr")
    assert "Traceback" not in done.stderr


def test_curves_say_what_the_machine_did(finished):
    curves = scalars(only_run(finished / "outputs"))
    steps = [step for step, _ in curves["train/loss"]]
    for tag in ("system/memory_gb", "system/wall_seconds"):
        assert [step for step, _ in curves[tag]] == steps
        assert all(value > 0 for _, value in curves[tag])


def test_views_of_several_sizes_are_contrasted_all_with_all():
    """Six views as multi-crop makes them: those of one size go together, and one loss takes all pairs."""
    method = SimCLR(**arguments()).double()
    random = torch.Generator().manual_seed(3)
    views = [torch.rand(4, 3, size, size, dtype=torch.float64, generator=random) for size in (32, 32, 16, 16, 16, 16)]
    reference = copy.deepcopy(method)
    large, small = (reference.head(reference.backbone(torch.cat(views[part]))) for part in (slice(2), slice(2, 6)))
    expected = info_nce(torch.cat([large, small]).unflatten(0, (6, 4)), 0.07).loss
    assert method.compute(Views(views, {}))["loss"].item() == pytest.approx(expected.item(), rel=1e-12)
    for (name, ours), theirs in zip(method.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12, msg=name)
