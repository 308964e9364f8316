"""Features of any images that lie in a folder, a zip, a tar or shards, kept with their names."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from simclr.augment.plain import Plain
from simclr.data.files.archive import Archive, said_of_broken
from simclr.data.files.contents import shown
from simclr.data.files.decode import Decoder
from simclr.errors import InputError
from simclr.evaluation.features import frozen, update_with_weights
from simclr.system.files import replacing

log = logging.getLogger(__name__)

AT_ONCE = 2**16  # features that are compared together


@dataclass(frozen=True)
class Collection:
    """names: of the images in their archive, features: float32 [N, F] of each."""

    names: Sequence[str]
    features: Tensor

    def nearest(self, query: Tensor, count: int, head: nn.Module | None = None) -> list[tuple[int, float]]:
        """Which images are nearest to a query [D] by cosine, and how near, the nearest first.

        head: makes of features what is compared; None compares the features themselves.
        """
        similarity = torch.cat([self._cosines(part, query, head) for part in self.features.split(AT_ONCE)])
        best = similarity.topk(min(count, len(similarity)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    @staticmethod
    def _cosines(features: Tensor, query: Tensor, head: nn.Module | None) -> Tensor:
        if head is not None:
            with frozen(head):
                features = head(features)
        return F.normalize(features, dim=1) @ F.normalize(query, dim=0)


class Embedding:
    """The features of an archive's images, made batch by batch, however many there are.

    size, plain: as in `collect`. head: makes of features what is given, where there is one.
    """

    def __init__(
        self,
        encoder: nn.Module,
        archive: Archive,
        size: int,
        plain: Plain,
        device: torch.device,
        head: nn.Module | None = None,
    ) -> None:
        self.network = encoder if head is None else nn.Sequential(encoder, head)
        self.archive, self.size, self.plain, self.device = archive, size, plain, device
        self.broken: dict[str, str] = {}  # images that cannot be decoded so far, and what is wrong

    def batches(self) -> Iterator[tuple[list[str], Tensor]]:
        """Names and features [B, F], on the CPU, of those that can be decoded, in order.

        Raises InputError where there is no image, or none can be decoded.
        """
        names, decoder = _names(self.archive), Decoder(self.archive, self.size)
        self.broken, remaining = decoder.broken, iter(names)
        for pixels in decoder.batches(names, "Reading images"):
            if len(pixels):
                own = list(islice((name for name in remaining if name not in decoder.broken), len(pixels)))
                with frozen(self.network):
                    yield own, self.network(self.plain(torch.from_numpy(pixels).to(self.device))).float().cpu()
        if len(decoder.broken) == len(names):
            raise InputError(f"{said_of_broken(self.archive, decoder.broken, len(names))}; {self.archive.remedy}")


def collect(
    encoder: nn.Module, archive: Archive, size: int, plain: Plain, device: torch.device, folder: Path
) -> Collection:
    """The features of every image of an archive that can be decoded; the others are said.

    size: pixels that images are decoded at, scaled and centre-cropped, before `plain` shows them to the encoder.
    They are kept in `folder` under a name made of the weights and of what the archive holds, so that what is read back
    is never stale. Raises InputError where there is no image.
    """
    names = _names(archive)
    digest = hashlib.sha256(f"{archive.path} {archive.fingerprint()} {size} {plain}".encode())
    update_with_weights(digest, encoder)
    path = folder / f"{digest.hexdigest()[:24]}.safetensors"
    kept = _kept(path, device)
    if kept is None:
        images = Embedding(encoder, archive, size, plain, device)
        parts = list(images.batches())
        kept = Collection([name for own, _ in parts for name in own], torch.cat([x for _, x in parts])), images.broken
        notes = {"names": json.dumps(kept[0].names), "broken": json.dumps(kept[1])}
        with replacing(path) as unfinished:
            unfinished.write_bytes(save({"features": kept[0].features}, notes))
    found, broken = kept
    say_broken(archive, broken, len(names))
    return Collection(found.names, found.features.to(device))


def _names(archive: Archive) -> list[str]:
    names = archive.names()
    if not names:
        raise InputError(f"{shown(archive.path)} holds no images (files that end in .jpg, .png, ...)")
    return names


def say_broken(archive: Archive, broken: dict[str, str], count: int) -> None:
    if broken:
        log.warning("%s; left out.", said_of_broken(archive, broken, count))


def _kept(path: Path, device: torch.device) -> tuple[Collection, dict[str, str]] | None:
    """What was kept, and which images are broken; None where nothing was, or it cannot be read."""
    if path.exists():
        with suppress(SafetensorError, KeyError, ValueError, OSError), safe_open(path, framework="pt") as file:
            names, broken = (json.loads(file.metadata()[name]) for name in ("names", "broken"))
            return Collection(names, file.get_tensor("features").to(device)), broken
    return None
