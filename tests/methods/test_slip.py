"""SLIP against CLIP and an independent InfoNCE, each on its own views."""

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss

from simclr.data.batch import Views
from simclr.methods.clip import SLIP
from simclr.runs.assemble import assemble
from simclr.runs.compose import compose_config
from tests.methods.test_clip import KNOWN, SMALL, TEXT, clip

HEAD = ("method.image_head.hidden_features=24", "method.image_head.out_features=16")


def slip(*overrides: str) -> SLIP:
    assembly = assemble(compose_config("method=slip", *SMALL, *TEXT, *HEAD, *overrides))
    assembly.method.prepare(KNOWN)
    assembly.method.check(assembly.augmentation)
    assert isinstance(assembly.method, SLIP)
    return assembly.method.double()


def batch(*drawn: int) -> Views:
    images = torch.rand(3, len(drawn), 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    return Views(list(images), {"captions": torch.tensor(drawn)})


def test_its_loss_is_clips_of_the_first_view_and_nt_xent_of_the_others():
    """Value and every gradient, in float64; each part by an implementation that is not ours, or held to one."""
    method, apart = slip("method.image_weight=0.5"), clip().double()
    apart.load_state_dict({name: method.state_dict()[name] for name in apart.state_dict()})
    head = slip().image_head
    head.load_state_dict(method.image_head.state_dict())
    views = batch(0, 2, 4, 1)

    found = method.compute(views)
    found["loss"].backward()
    captioned = apart.compute(Views(views.images[:1], views.columns))
    contrasted = head(apart.backbone(torch.cat(views.images[1:])))
    expected = captioned["loss"] + 0.5 * NTXentLoss(temperature=0.1)(contrasted, torch.arange(4).repeat(2))
    expected.backward()

    torch.testing.assert_close(found["loss"], expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(found["image_text_loss"], captioned["loss"], rtol=0, atol=1e-12)
    theirs = {**dict(apart.named_parameters()), **{f"image_head.{n}": p for n, p in head.named_parameters()}}
    for name, ours in method.named_parameters():
        torch.testing.assert_close(ours.grad, theirs[name].grad, rtol=0, atol=1e-7, msg=name)


def test_a_weight_of_0_is_clip():
    method, apart = slip("method.image_weight=0"), clip().double()
    apart.load_state_dict({name: method.state_dict()[name] for name in apart.state_dict()})
    views = batch(0, 2, 4)
    expected = apart.compute(Views(views.images[:1], views.columns))["loss"]
    torch.testing.assert_close(method.compute(views)["loss"], expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_batch_in_parts_has_the_same_gradients():
    """Batch norm in eval mode, as it has to be for parts to be exact."""
    whole, parts = (slip(f"method.micro_batch={size}").eval() for size in ("null", 2))
    parts.load_state_dict(whole.state_dict())
    for method in (whole, parts):
        method.compute(batch(0, 1, 2, 4, 3))["loss"].backward()
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("method.image_weight=-1", "method.image_weight=-1 is not usable"),
        ("method.image_temperature=0", "temperature=0 is not usable"),
        ("augmentation.views=2", "use augmentation=slip"),
        ("method.image_head.hidden_layers=0", "hidden_layers=0 is not usable"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(setting, said):
    with pytest.raises(ValueError, match=said):
        slip(setting)
