"""Convolutions on small maps: torch's own against one matrix product per output pixel, shape by shape.

python -m benchmarks.convolutions [--views 512] [--seconds 0.5]

Prints the time of forward and backward of each, and their ratio, in each precision. `SmallMapConv2d` decides by such a
table; on a machine where this one reads otherwise, `backbone.small_maps=false` switches it off.
"""

import argparse

import torch
import torch.nn.functional as F

from benchmarks.measure import alternate, machine
from simclr.models.small_maps import SmallMapConv2d, convolution_by_pixels, output_size
from simclr.system.memory import keep_freed_memory

# ResNet's convolutions whose output is 4×4 or smaller, on images of 32, 64 and 128 pixels:
# in, out, kernel, stride, side of the input map
SHAPES = [
    (64, 128, 3, 2, 8),
    (128, 128, 3, 1, 4),
    (128, 256, 3, 2, 8),
    (128, 256, 3, 2, 4),
    (128, 256, 1, 2, 4),
    (256, 256, 3, 1, 4),
    (256, 256, 3, 1, 2),
    (256, 512, 3, 2, 8),
    (256, 512, 3, 2, 4),
    (256, 512, 1, 2, 4),
    (256, 512, 3, 2, 2),
    (512, 512, 3, 1, 4),
    (512, 512, 3, 1, 2),
    (512, 512, 3, 1, 1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=512, help="images in a batch, all views together (512)")
    parser.add_argument("--seconds", type=float, default=0.5, help="to spend on each shape and precision (0.5)")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(machine(device), f"\n{options.views} views; milliseconds of forward and backward together")
    print(f"{'convolution':<32}{'precision':>10}{'torch':>9}{'by pixels':>11}{'ratio':>7}  taken")
    for dtype in (torch.float32, torch.float16 if device.type == "cuda" else torch.bfloat16):
        for inputs, outputs, kernel, stride, side in SHAPES:
            measure(options, device, dtype, inputs, outputs, kernel, stride, side)


def measure(
    options: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    side: int,
) -> None:
    padding = kernel // 2
    layer = SmallMapConv2d(inputs, outputs, kernel, stride, padding, bias=False, device=device, dtype=dtype)
    images = torch.randn(options.views, side, side, inputs, device=device, dtype=dtype).permute(0, 3, 1, 2)
    images.requires_grad_()
    to = output_size(side, kernel, stride, padding)
    gradient = torch.randn(options.views, to, to, outputs, device=device, dtype=dtype).permute(0, 3, 1, 2)

    def stock() -> None:
        F.conv2d(images, layer.weight, stride=stride, padding=padding).backward(gradient)

    def by_pixels() -> None:
        convolution_by_pixels(images, layer.weight, stride, padding).backward(gradient)

    torch_ms, pixels_ms = (1000 * seconds for seconds in alternate([stock, by_pixels], options.seconds, device))
    name = f"{kernel}×{kernel} /{stride}  {side}×{side}×{inputs} to {to}×{to}×{outputs}"
    taken = "by pixels" if layer.by_pixels_is_faster(images) else "torch"
    precision = str(dtype).removeprefix("torch.")
    print(f"{name:<32}{precision:>10}{torch_ms:9.2f}{pixels_ms:11.2f}{torch_ms / pixels_ms:7.2f}  {taken}", flush=True)


if __name__ == "__main__":
    main()
