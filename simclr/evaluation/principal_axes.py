"""Multinomial logistic regression in the axes in which its problem is easy, which is what makes the protocols fast."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)


class PrincipalAxes(NamedTuple):
    """Standardised features along the axes in which they do not correlate.

    There the curvature of the loss is nearly diagonal, and known: L-BFGS on weights divided by its root takes a fifth
    of the steps. The rotation leaves ‖weight‖, and so the problem, as it was.
    """

    features: Tensor  # [N, A], along A axes
    variance: Tensor  # [A], along each axis
    rotation: Tensor  # [F, A], of features to axes

    @classmethod
    def of(cls, standard: Tensor) -> PrincipalAxes:
        """The axes of features [N, F] that are standardised already: F, or N where there are fewer images than that.

        The optimal weights lie in the span of the images, for the penalty allows nothing beside it.
        """
        # On the CPU: MPS has neither of the two.
        if len(standard) < standard.shape[1]:
            _, singular, axes = torch.linalg.svd(standard.cpu(), full_matrices=False)
            variance, rotation = singular.square() / len(standard), axes.T
        else:
            variance, rotation = torch.linalg.eigh((standard.T @ standard / len(standard)).cpu())
        variance, rotation = variance.to(standard), rotation.to(standard)
        return cls(standard @ rotation, variance.clamp(min=0), rotation)

    def fit(
        self, labels: Tensor, classes: int, l2: float, start: tuple[Tensor, Tensor] | None, max_steps: int = 1000
    ) -> tuple[Tensor, Tensor]:
        """The optimal weight [C, F], of the features before rotation, and bias [C]."""
        if start is None:
            weight, bias = self.features.new_zeros(classes, len(self.variance)), self.features.new_zeros(classes)
        else:
            weight, bias = start[0] @ self.rotation, start[1]
        # The softmax's part in the curvature, p (1 - p), as it is on average where the fit starts.
        chances = F.linear(self.features, weight, bias).softmax(dim=1)
        curvature = (1 - chances.square().sum(dim=1).mean()).clamp(min=1e-3) / classes
        per_weight, per_bias = (self.variance * curvature + l2).rsqrt(), curvature.rsqrt()
        scaled_weight, scaled_bias = (weight / per_weight).requires_grad_(), (bias / per_bias).requires_grad_()
        solver = torch.optim.LBFGS(
            [scaled_weight, scaled_bias],
            max_iter=max_steps,
            max_eval=2 * max_steps,
            tolerance_grad=1e-6,
            tolerance_change=1e-7,  # of the loss; float32 resolves no less
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            solver.zero_grad()
            weight = scaled_weight * per_weight
            scores = F.linear(self.features, weight, scaled_bias * per_bias)
            loss = F.cross_entropy(scores, labels) + l2 / 2 * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(objective)
        spent = solver.state[scaled_weight]
        if spent["n_iter"] >= max_steps or spent["func_evals"] >= 2 * max_steps:
            log.warning(
                "The logistic regression at L2 %g was stopped after %d steps, before it converged.", l2, max_steps
            )
        return (scaled_weight.detach() * per_weight) @ self.rotation.T, scaled_bias.detach() * per_bias
