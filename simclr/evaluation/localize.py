"""Where the object is: a regression from frozen features to the one box that Tiny ImageNet gives every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from simclr.checks import is_whole
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.held_out import HeldOut, check_grid, hold_out, middle
from simclr.evaluation.protocol import DRAWS, Judgement, Protocol, Subject, check_features, mean_interval
from simclr.models.maps import LastMap


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes, row by row: float [N, 4] (x0, y0, x1, y1) twice to [N], from 0 to 1.

    Coordinates are edges: a box that covers pixels 3 to 5 goes from 3 to 6. A box whose edges are the wrong way round
    covers nothing.
    """
    inner = torch.cat([torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])], dim=1)
    both = _area(inner)
    return both / (_area(first) + _area(second) - both).clamp(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)


class BoxRegressor(NamedTuple):
    """Ridge regression: boxes = (features - mean) / scale @ weight + bias."""

    weight: Tensor  # [F, 4]
    bias: Tensor  # [4]
    mean: Tensor  # [F]
    scale: Tensor  # [F]

    def boxes(self, features: Tensor) -> Tensor:
        """float [N, F] to boxes [N, 4]."""
        return (features - self.mean) / self.scale @ self.weight + self.bias


def fit(features: Tensor, boxes: Tensor, l2: float) -> BoxRegressor:
    """Minimise mean squared error + l2 · ‖weight‖² over standardised features, exactly; the bias is not penalised.

    features: float [N, F], boxes: float [N, 4]. scikit-learn's Ridge has alpha = l2 · N. Solved on the CPU in float64,
    which MPS has not.
    """
    mean, scale, bias = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6), boxes.mean(dim=0)
    standard = ((features - mean) / scale).cpu().double()
    gram = standard.T @ standard / len(standard) + l2 * torch.eye(features.shape[1]).to(standard)
    moment = standard.T @ (boxes - bias).cpu().double() / len(standard)
    return BoxRegressor(torch.linalg.solve(gram, moment).to(features.dtype).to(features.device), bias, mean, scale)


class Localize(Protocol):
    """Mean IoU of predicted boxes, and the share above one half; beside it, the one box that suits all images best.

    The features are the last map, whose mean has lost where things are. cells: along each side, at most; a larger map
    is pooled to that many. l2_grid: strengths of the ridge penalty to choose from, by mean IoU on held-out images of
    train.
    """

    name = "localize"
    needs = frozenset({"boxes"})

    def __init__(self, cells: int, l2_grid: Sequence[float]) -> None:
        check_grid(l2_grid)
        if not is_whole(cells) or cells < 1:
            raise InputError(f"protocol.cells={cells} is not usable; it is a whole number, 1 or more")
        self.cells, self.l2_grid = cells, l2_grid

    def read_from(self, backbone: nn.Module) -> nn.Module:
        return LastMap(backbone, self.cells)

    def check(self, train: ImageStore, val: ImageStore | None) -> None:
        super().check(train, val)
        for store in (train, val):
            if store is None or store.boxes is None or (store.boxes[:, 0] < 0).all():
                raise InputError("localize evaluation needs boxes, and none is known; choose data=tiny_imagenet")

    def judge(self, subject: Subject) -> Judgement:
        bank, queries = subject.features
        check_features(bank, queries)
        bank_boxes, query_boxes = (_edges(store.boxes, subject.device) for store in (subject.train, subject.val))
        known, judged = bank_boxes[:, 0] >= 0, query_boxes[:, 0] >= 0
        bank, bank_boxes, queries, query_boxes = bank[known], bank_boxes[known], queries[judged], query_boxes[judged]

        if len(bank) < 2:
            raise InputError(f"localize evaluation needs two training images with boxes or more, got {len(bank)}")
        held = hold_out(len(bank))
        l2 = self._choose(bank, bank_boxes, held)
        overlap = iou(fit(bank, bank_boxes, l2).boxes(queries), query_boxes)
        constant = iou(bank_boxes.mean(dim=0).expand_as(query_boxes), query_boxes)

        low, high = mean_interval(overlap.cpu().numpy())
        numbers = {
            "mean_iou": overlap.mean().item(),
            "mean_iou_low": low,
            "mean_iou_high": high,
            "iou_above_half": 100 * (overlap > 0.5).float().mean().item(),
            "mean_iou_of_mean_box": constant.mean().item(),
            "l2": l2,
        }
        words = (
            f"ridge regression from standardised, frozen features (the last map, of {self.cells} x {self.cells} cells "
            f"at most) of {len(bank)} un-augmented training images to box edges; L2 "
            f"{held.choice('mean IoU', self.l2_grid)}; fitted on all; {len(queries)} "
            f"validation boxes read once; iou_above_half in per cent; mean_iou_of_mean_box: the mean training box, for "
            f"every image; interval: 95 % by Gaffke's bounds over validation images (Bayesian bootstrap of "
            f"{DRAWS:,} draws, one more image at either bound)"
        )
        lines = [
            "mean IoU {mean_iou:.4f} (95 % interval {mean_iou_low:.4f} to {mean_iou_high:.4f}), "
            "above 0.5: {iou_above_half:.2f} %".format(**numbers)
            + held.note(self.l2_grid),
            "mean IoU of one box for all images {mean_iou_of_mean_box:.4f}".format(**numbers),
        ]
        return Judgement(numbers, {"localize": words}, lines)

    def _choose(self, features: Tensor, boxes: Tensor, held: HeldOut) -> float:
        """Of equals the strongest."""
        if len(self.l2_grid) == 1 or not held.parts:
            return middle(self.l2_grid)
        best = (-1.0, 0.0)
        for l2 in sorted(self.l2_grid, reverse=True):
            overlaps = [
                iou(fit(features[rest], boxes[rest], l2).boxes(features[held_out]), boxes[held_out])
                for held_out, rest in held.parts
            ]
            best = max(best, (torch.cat(overlaps).mean().item(), l2))
        return best[1]


def _edges(boxes: object, device: torch.device) -> Tensor:
    """Boxes of first and last pixels, int16 [N, 4], as edges: float [N, 4]; what is unknown stays negative."""
    edges = torch.as_tensor(boxes).to(device, torch.float32)
    edges[:, 2:] += 1
    return edges
