"""Features of any images that lie in a folder, a zip, a tar or shards, kept with their names."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
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
ABOUT = "simclr.embed"  # in the schema of a table, to tell it from others


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
        decoder = Decoder(archive, size)
        features = list(_features(encoder, decoder, names, plain, device))
        kept = Collection([name for name in names if name not in decoder.broken], torch.cat(features)), decoder.broken
        notes = {"names": json.dumps(kept[0].names), "broken": json.dumps(kept[1])}
        with replacing(path) as unfinished:
            unfinished.write_bytes(save({"features": kept[0].features}, notes))
    found, broken = kept
    _say_broken(archive, broken, len(names))
    return Collection(found.names, found.features.to(device))


def write_npz(
    path: Path,
    encoder: nn.Module,
    archive: Archive,
    size: int,
    plain: Plain,
    device: torch.device,
    head: nn.Module | None = None,
) -> tuple[int, int]:
    """As `collect`, into a file of NumPy's, however many images there are; returns the features' shape.

    "features" are what a head makes of them, where one is given. They go through a file beside it, so that memory holds
    the names and one batch. Raises InputError where there is no image.
    """
    names = _names(archive)
    decoder, count, width = Decoder(archive, size), 0, 0
    with tempfile.TemporaryFile(dir=path.parent) as rows:
        for batch in _features(encoder, decoder, names, plain, device, head):
            rows.write(batch.numpy().astype("<f4").tobytes())
            count, width = count + len(batch), batch.shape[1]
        rows.seek(0)
        with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w") as npz:
            with npz.open("features.npy", "w", force_zip64=True) as file:
                about = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
                np.lib.format.write_array_header_1_0(file, about)
                shutil.copyfileobj(rows, file, 2**20)
            with npz.open("names.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.array([name for name in names if name not in decoder.broken]))
    _say_broken(archive, decoder.broken, len(names))
    return count, width


def write_parquet(
    path: Path,
    encoder: nn.Module,
    archive: Archive,
    size: int,
    plain: Plain,
    device: torch.device,
    head: nn.Module | None = None,
) -> tuple[int, int]:
    """As `write_npz`, into a table with a row for each image: "name", and "features", a list of so many float32.

    Raises InputError where there is no image, or no pyarrow.
    """
    if not find_spec("pyarrow"):
        raise InputError('a .parquet file needs pyarrow, not installed here; pip install -e ".[parquet]"')
    import pyarrow
    from pyarrow import parquet

    names = _names(archive)
    decoder, count, width = Decoder(archive, size), 0, 0
    schema: Any = None
    with ExitStack() as stack:
        unfinished = stack.enter_context(replacing(path))
        done = 0  # images of which it is known whether they can be decoded
        for batch in _features(encoder, decoder, names, plain, device, head):
            if schema is None:
                width = batch.shape[1]
                kind = pyarrow.list_(pyarrow.float32(), width)
                schema = pyarrow.schema([("name", pyarrow.string()), ("features", kind)]).with_metadata(
                    {ABOUT: path.name}
                )
                writer = stack.enter_context(parquet.ParquetWriter(unfinished, schema))
            own: list[str] = []
            while len(own) < len(batch):
                own += [names[done]] if names[done] not in decoder.broken else []
                done += 1
            values = pyarrow.array(batch.numpy().ravel(), pyarrow.float32())
            rows = pyarrow.FixedSizeListArray.from_arrays(values, width)
            writer.write_table(pyarrow.table({"name": own, "features": rows}, schema=schema))
            count += len(batch)
    _say_broken(archive, decoder.broken, len(names))
    return count, width


def is_parquet(path: Path) -> bool:
    """Whether a file is one that `write_parquet` has written."""
    from pyarrow import parquet

    try:
        return ABOUT.encode() in (parquet.read_schema(path).metadata or {})
    except (OSError, ValueError):
        return False


def is_npz(path: Path) -> bool:
    """Whether a file is one that `write_npz` has written."""
    return zipfile.is_zipfile(path) and zipfile.ZipFile(path).namelist() == ["features.npy", "names.npy"]


def _names(archive: Archive) -> list[str]:
    names = archive.names()
    if not names:
        raise InputError(f"{shown(archive.path)} holds no images (files that end in .jpg, .png, ...)")
    return names


def _features(
    encoder: nn.Module,
    decoder: Decoder,
    names: list[str],
    plain: Plain,
    device: torch.device,
    head: nn.Module | None = None,
) -> Iterator[Tensor]:
    """Features [B, F] on the CPU of those that can be decoded, in order. Raises InputError where none can."""
    network = encoder if head is None else nn.Sequential(encoder, head)
    for pixels in decoder.batches(names, "Reading images"):
        if len(pixels):
            with frozen(network):
                yield network(plain(torch.from_numpy(pixels).to(device))).float().cpu()
    if len(decoder.broken) == len(names):
        raise InputError(f"{said_of_broken(decoder.archive, decoder.broken, len(names))}; {decoder.archive.remedy}")


def _say_broken(archive: Archive, broken: dict[str, str], count: int) -> None:
    if broken:
        log.warning("%s; left out.", said_of_broken(archive, broken, count))


def _kept(path: Path, device: torch.device) -> tuple[Collection, dict[str, str]] | None:
    """What was kept, and which images are broken; None where nothing was, or it cannot be read."""
    if path.exists():
        with suppress(SafetensorError, KeyError, ValueError, OSError), safe_open(path, framework="pt") as file:
            names, broken = (json.loads(file.metadata()[name]) for name in ("names", "broken"))
            return Collection(names, file.get_tensor("features").to(device)), broken
    return None
