"""CLIP against a step written out by hand: both towers, the scale, which captions are drawn and which are the same."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from simclr.data.batch import Views
from simclr.data.columns import captions
from simclr.data.shapes import Shapes
from simclr.methods.clip import CLIP, image_text
from simclr.runs.assemble import assemble
from simclr.runs.compose import compose_config
from simclr.training.step_loader import StepLoader

SMALL = ("data=shapes", "data.size=32", "data.captions=true", "tokenizer.vocabulary=600", "head.out_features=16")
TEXT = ("method.text.width=32", "method.text.depth=2", "method.text.context=12")
KNOWN = {"captions": captions([["a red star", "red stars"], ["a blue ring"], ["a red star", "some stars"]])}


def clip(*overrides: str) -> CLIP:
    method = assemble(compose_config("method=clip", *SMALL, *TEXT, *overrides)).method
    method.prepare(KNOWN)
    assert isinstance(method, CLIP)
    return method


def batch(*drawn: int) -> Views:
    images = torch.rand(len(drawn), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Views([images.double()], {"captions": torch.tensor(drawn)})


def test_a_step_is_that_of_a_reference_written_by_hand():
    """Radford et al. 2021, figure 3: loss, and after a step of gradient descent every parameter, in float64."""
    method = clip().double()
    drawn = (0, 2, 4, 1)
    reference = copy.deepcopy(method)
    loss = method.compute(batch(*drawn))["loss"]
    loss.backward()
    torch.optim.SGD([p for group in method.parameter_groups() for p in group["params"]], lr=0.1).step()

    tokens = reference.text.tokens([KNOWN["captions"].names[i] for i in drawn]).ids
    images = F.normalize(reference.head(reference.backbone(batch(*drawn).images[0])), dim=1)
    texts = F.normalize(reference.text(tokens), dim=1)
    logits = reference.logit_scale.exp() * images @ texts.T
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    for (name, ours), theirs in zip(method.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=0, atol=1e-9, msg=name)


def test_the_scale_begins_at_the_temperature_and_stays_at_100_or_below():
    method = clip()
    assert method.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        method.logit_scale.fill_(5.0)
    method.after_step(0.5)
    assert method.logit_scale.exp().item() == pytest.approx(100)
    assert method.logit_scale.item() <= math.log(100) + 1e-6


def test_weight_decay_leaves_the_scale_alone_where_it_is_for_matrices():
    method = clip("method.decay_norms_and_biases=false")
    undecayed = [p for group in method.parameter_groups() if group.get("weight_decay") == 0 for p in group["params"]]
    assert any(parameter is method.logit_scale for parameter in undecayed)


def test_equal_captions_are_positives_where_asked_for():
    """Captions 0 and 3 are both "a red star"."""
    apart, together = clip().double(), clip("method.same_caption=positive").double()
    together.load_state_dict(apart.state_dict())
    different, equal = batch(0, 2, 4), batch(0, 2, 3)
    assert apart.compute(different)["loss"].item() == pytest.approx(
        together.compute(different)["loss"].item(), abs=1e-12
    )
    assert apart.compute(equal)["loss"].item() != pytest.approx(together.compute(equal)["loss"].item(), abs=1e-4)


def test_a_batch_in_parts_has_the_same_gradients():
    """Batch norm in eval mode, as it has to be for parts to be exact; float64."""
    whole, parts = (clip(f"method.micro_batch={size}").double().eval() for size in ("null", 2))
    parts.load_state_dict(whole.state_dict())
    for method in (whole, parts):
        method.compute(batch(0, 1, 2, 4, 3))["loss"].backward()
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10, msg=name)


def test_one_caption_of_an_image_is_drawn_by_seed_and_step():
    store = Shapes(64, 8, 32, 0, captions=True).load().train
    ranges = torch.from_numpy(store.columns["captions"].values)

    def epochs(seed: int, step: int = 0, part: slice = slice(None)) -> list[tuple[torch.Tensor, torch.Tensor]]:
        loader = StepLoader(store, 16, seed, step, part, reads={"captions"})
        return [(b.rows, b.columns["captions"]) for _ in range(3 - step // 4) for b in loader]

    drawn = epochs(0)
    for rows, chosen in drawn:
        assert (ranges[rows, 0] <= chosen).all()
        assert (chosen < ranges[rows, 1]).all()
    for (_, one), (_, again) in zip(drawn[5:], epochs(0, step=5), strict=True):
        assert torch.equal(one, again)  # a resumed run goes on with the very next
    halves = zip(epochs(0, part=slice(0, 8)), epochs(0, part=slice(8, 16)), strict=True)
    for (_, whole), ((_, first), (_, second)) in zip(drawn, halves, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))  # of two processes each draws its own half
    place = torch.cat([chosen - ranges[rows, 0] for rows, chosen in drawn])
    assert place.bincount(minlength=3).min() > 40  # each of three, of 192
    assert any(not torch.equal(one, other) for (_, one), (_, other) in zip(drawn, epochs(1), strict=True))


def test_words_of_images_that_are_not_learned_from_are_unknown():
    """The tokenizer learns from the training images alone, though all captions may lie in one pool."""
    every = captions([["zyzzyva zyzzyva"], ["a red star"], ["a blue star"]])
    method = clip()
    method.prepare({"captions": every.select(torch.tensor([1, 2]).numpy())})
    assert "zy" not in method.text.learned
    assert "star" in method.text.learned


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("method.same_caption=both", "method.same_caption=both is not known"),
        ("temperature=0.001", "temperature=0.001 is not usable; CLIP's is 0.01 or more"),
        ("augmentation.views=2", "captions are compared with one view"),
        ("tokenizer.vocabulary=100", "vocabulary=100 is not usable"),
        ("method.text.heads=7", "heads=7 is not usable"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(setting, said):
    with pytest.raises(ValueError, match=said):
        clip(setting)


def clip_by_the_paper(images, texts, temperature):
    """Figure 3 of Radford et al. 2021, line by line."""
    logits = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T / temperature
    labels = torch.arange(len(images))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@pytest.mark.parametrize("chunk_logits", [7, 2**22])
def test_image_text_is_clips_loss_in_value_and_gradient(chunk_logits):
    """The paper's pseudo-code and open_clip's own loss; gradients of both towers and of the scale."""
    images, texts = (torch.randn(9, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    found = image_text(images, texts, (-scale).exp(), chunk_logits=chunk_logits)
    gradients = torch.autograd.grad(found.loss, (images, texts, scale))
    for expected in (
        clip_by_the_paper(images, texts, (-scale).exp()),
        ClipLoss()(F.normalize(images, dim=1), F.normalize(texts, dim=1), scale.exp()),
    ):
        torch.testing.assert_close(found.loss, expected, rtol=0, atol=1e-12)
        for ours, theirs in zip(gradients, torch.autograd.grad(expected, (images, texts, scale)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    similarity = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    for rank, own in ((found.image_rank, similarity), (found.text_rank, similarity.T)):
        better = (own.detach() > own.detach().diagonal()[:, None]).sum(dim=1)
        assert rank.tolist() == better.tolist()


def test_equal_captions_share_their_images():
    """Term by term: each positive of an anchor against all that say something else."""
    images, texts = (torch.randn(8, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    says = [0, 1, 2, 0, 3, 1, 0, 4]
    similarity = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T / 0.2
    terms = []
    for logits in (similarity, similarity.T):
        for i in range(8):
            others = sum(logits[i, j].exp() for j in range(8) if says[j] != says[i])
            own = [j for j in range(8) if says[j] == says[i]]
            terms.append(sum(-(logits[i, j].exp() / (logits[i, j].exp() + others)).log() for j in own) / len(own))
    expected = torch.stack(terms).mean()
    found = image_text(images, texts, 0.2, torch.tensor(says), chunk_logits=20)
    torch.testing.assert_close(found.loss, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(found.loss, (images, texts)), torch.autograd.grad(expected, (images, texts)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    alike = torch.tensor(says)[:, None] == torch.tensor(says)
    best = similarity.masked_fill(~alike, -torch.inf).amax(dim=1, keepdim=True)
    assert found.image_rank.tolist() == ((similarity > best) & ~alike).sum(dim=1).tolist()


def test_captions_that_are_all_equal_leave_nothing_to_tell_apart():
    images, texts = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    found = image_text(images, texts, 0.1, torch.zeros(4, dtype=torch.long))
    assert found.loss.item() == 0
    found.loss.backward()
    assert images.grad.isfinite().all()
    assert found.image_rank.tolist() == [0] * 4


def test_a_permuted_batch_of_pairs_has_the_same_loss_and_permuted_ranks():
    images, texts = (torch.randn(8, 5, dtype=torch.float64) for _ in range(2))
    order = torch.randperm(8)
    found, permuted = image_text(images, texts, 0.1), image_text(images[order], texts[order], 0.1)
    torch.testing.assert_close(found.loss, permuted.loss, rtol=0, atol=1e-12)
    assert torch.equal(found.image_rank[order], permuted.image_rank)
    assert torch.equal(found.text_rank[order], permuted.text_rank)


def test_pairs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"two tensors \[pairs, dimension\], got \[4, 5\] and \[3, 5\]"):
        image_text(torch.randn(4, 5), torch.randn(3, 5), 0.1)
