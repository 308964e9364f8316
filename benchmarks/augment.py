"""What a view costs: every operation and every engine, in milliseconds a view on one core.

python -m benchmarks.augment [--images 256] [--seconds 3] [--json FILE] [KEY=VALUE ...]

KEY=VALUE are overrides as for train.py (data=shapes, augmentation=baseline, data.size=96, ...). All work on the same
images with one thread; where there is a GPU, the batched engine is timed there too. The engines take turns, so their
ratios do not depend on what else the machine does. lightly needs the extra: pip install -e ".[bench]".
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from benchmarks.measure import alternate, machine
from simclr.augment import batched, reference
from simclr.augment.recipe import Draws, Recipe
from simclr.runs.build import build
from simclr.runs.compose import compose_config
from simclr.runs.results import provenance, write_json
from simclr.system.memory import keep_freed_memory

Task = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="in a batch (256)")
    parser.add_argument("--seconds", type=float, default=3, help="to spend on each row and engine (3)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options, overrides = parser.parse_known_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    config: Any = compose_config(*overrides)
    store = build(config.data).load().train
    images = store.gather(np.random.default_rng(0).permutation(len(store))[: options.images])
    recipe: Recipe = build(config.augmentation).views[0]
    draws = recipe.draw(len(images), images.shape[1], images.shape[2], torch.Generator().manual_seed(0))

    cpu = torch.device("cpu")
    print(machine(cpu), *overrides)
    print(f"{len(images)} images of {images.shape[1]}×{images.shape[2]}; milliseconds a view on one core\n")
    print("| operation | torchvision | batched | ratio |\n|---|---|---|---|")
    figures: dict[str, Any] = {"operations": {}, "engines": {}}
    for name, theirs, ours in operations(images, draws, recipe):
        milliseconds = [1000 * s / len(images) for s in alternate([theirs, ours], options.seconds, cpu)]
        figures["operations"][name] = dict(zip(("torchvision", "batched"), milliseconds, strict=True))
        print(f"| {name} | {milliseconds[0]:.4f} | {milliseconds[1]:.4f} | {milliseconds[0] / milliseconds[1]:.1f} |")

    print("\n| engine, the whole recipe | ms | times the batched |\n|---|---|---|")
    named = dict(engines(images, draws, recipe))
    for name, seconds in zip(named, alternate(list(named.values()), options.seconds, cpu), strict=True):
        figures["engines"][name] = taken = 1000 * seconds / len(images)
        print(f"| {name} | {taken:.4f} | {taken / figures['engines']['batched']:.1f} |")
    if torch.cuda.is_available():
        gpu = torch.device("cuda")
        there = images.to(gpu)
        [seconds] = alternate([lambda: batched.augment(there, draws, recipe)], options.seconds, gpu)
        figures["engines"]["batched, " + machine(gpu)] = 1000 * seconds / len(images)
        print(f"\nbatched on {machine(gpu)}: {1000 * seconds / len(images):.5f} ms a view")
    if options.json:
        write_json(options.json, {"overrides": overrides, "milliseconds_a_view": figures} | provenance(cpu))


def operations(images: Tensor, draws: Draws, recipe: Recipe) -> Iterator[tuple[str, Task, Task]]:
    """Every operation on every image: torchvision's on bytes, one by one, and the batched one on floats."""
    planes = images.permute(0, 3, 1, 2).contiguous()
    floats = planes.float() / 255
    indices = range(len(images))

    def one_by_one(operation: Callable[..., Tensor], *parameters: Tensor) -> Task:
        return lambda: [operation(planes[i], *(float(parameter[i]) for parameter in parameters)) for i in indices]

    def crop_and_flip(i: int) -> Tensor:
        box = [int(field[i]) for field in (draws.top, draws.left, draws.height, draws.width)]
        view = tv.resized_crop(planes[i], *box, size=[recipe.size] * 2, antialias=True)
        return tv.horizontal_flip(view) if draws.flip[i] else view

    def blur(image: Tensor, sigma: float) -> Tensor:
        return tv.gaussian_blur(image, [recipe.blur_kernel] * 2, [sigma] * 2)

    threshold = recipe.solarize_threshold
    yield (
        "crop, resize, flip",
        lambda: [crop_and_flip(i) for i in indices],
        partial(batched.resized_crop, images, draws, recipe.size),
    )
    yield (
        "solarize",
        one_by_one(partial(tv.solarize, threshold=threshold)),
        partial(batched.solarize, floats, threshold),
    )
    for name in ("brightness", "contrast", "saturation", "hue"):
        drawn = getattr(draws, name)
        theirs, ours = getattr(tv, f"adjust_{name}"), getattr(batched, f"adjust_{name}")
        yield name, one_by_one(theirs, drawn), partial(ours, floats, drawn)
    yield (
        "grayscale",
        one_by_one(partial(tv.rgb_to_grayscale, num_output_channels=3)),
        partial(batched.grayscale, floats),
    )
    yield "blur", one_by_one(blur, draws.sigma), partial(batched.gaussian_blur, floats, draws.sigma, recipe.blur_kernel)


def engines(images: Tensor, draws: Draws, recipe: Recipe) -> Iterator[tuple[str, Task]]:
    """The recipe as this project, torchvision and lightly apply it; the last three draw their own parameters."""
    yield "batched", partial(batched.augment, images, draws, recipe)
    fused = partial(batched.augment, images, draws, recipe, fused=True)
    try:
        fused()
    except Exception:  # of many kinds, most of them private to torch
        print("| batched, fused by torch.compile | torch.compile does not work here | |")
    else:
        yield "batched, fused by torch.compile", fused
    yield "reference (torchvision's functions, at given draws)", partial(reference.augment, images, draws, recipe)
    as_pil = [Image.fromarray(image.numpy()) for image in images]
    planes = images.permute(0, 3, 1, 2).contiguous()
    jitter = v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    transforms = [
        v2.RandomResizedCrop(recipe.size, tuple(recipe.crop_scale), tuple(recipe.crop_ratio), antialias=True),
        v2.RandomHorizontalFlip(recipe.flip_p),
        v2.RandomSolarize(recipe.solarize_threshold, recipe.solarize_p),
        v2.RandomApply([jitter], recipe.jitter_p),
        v2.RandomGrayscale(recipe.grayscale_p),
        v2.GaussianBlur(recipe.blur_kernel, tuple(recipe.blur_sigma)),
    ]
    on_tensors = v2.Compose([*transforms, v2.ToDtype(torch.float32, scale=True)])
    on_pil = v2.Compose([*transforms, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    yield "torchvision transforms.v2 on tensors", lambda: [on_tensors(image) for image in planes]
    yield "torchvision transforms.v2 on PIL images", lambda: [on_pil(image) for image in as_pil]
    with contextlib.suppress(ImportError):
        from lightly.transforms.simclr_transform import SimCLRViewTransform

        low, high = recipe.blur_sigma
        lightly = SimCLRViewTransform(
            input_size=recipe.size, cj_strength=1.0, gaussian_blur=1.0, sigmas=(low, high), normalize=None
        )
        yield "lightly SimCLRViewTransform on PIL images", lambda: [lightly(image) for image in as_pil]


if __name__ == "__main__":
    main()
