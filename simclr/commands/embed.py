"""Write the features of any images into one file. `python -m simclr.embed --help` shows commands and keys."""

from __future__ import annotations

import logging

import hydra
from omegaconf import DictConfig

from simclr.commands.app import clear_errors, quiet_libraries, run_command
from simclr.errors import InputError
from simclr.runs.configs import CONFIGS

log = logging.getLogger(__name__)


def embed(config: DictConfig) -> None:
    """Write names and features of the images that config.images names, and say how they are read."""
    from simclr.commands.encoder import open_encoder
    from simclr.data.files.archive import path_of
    from simclr.data.files.pixels import image_endings
    from simclr.data.files.shards import open_archive_or_shards
    from simclr.evaluation.collection import Embedding, say_broken
    from simclr.evaluation.feature_files import is_npz, is_parquet, write_npz, write_parquet
    from simclr.runs.checkpoint import locate
    from simclr.runs.place import file_to_write, results_place

    quiet_libraries()
    if config.images is None:
        raise InputError("say which images: python -m simclr.embed run=RUN_DIR FOLDER")
    if config.layer not in ("features", "head"):
        raise InputError(f"layer={config.layer} is not known; choose features or head")
    last, run_dir, moment = locate(config.run, config.ckpt)
    wanted = ["backbone", *(["head"] if config.layer == "head" else [])]
    encoder = open_encoder(last.content, wanted, str(config.accelerator), config.part)
    archive = open_archive_or_shards(path_of("images", config.images), image_endings(), "images")
    table = str(config.output).endswith(".parquet")
    if config.output is not None and not table and not str(config.output).endswith(".npz"):
        raise InputError(f"output={config.output} is not usable: its name ends in .npz (NumPy's) or .parquet")
    write, is_ours = (write_parquet, is_parquet) if table else (write_npz, is_npz)
    name = "_".join(filter(None, ("embedded", archive.path.stem, moment)))
    path = file_to_write(config.output, lambda: results_place(run_dir, None) / f"{name}.npz", is_ours, "photos.npz")
    images = Embedding(
        encoder.backbone, archive, encoder.size, encoder.plain, encoder.device, encoder.parts.get("head")
    )
    shape = write(path, images.batches())
    say_broken(archive, images.broken, shape[0] + len(images.broken))
    log.info("%s of %s images of %s, %d numbers each: %s", config.layer, f"{shape[0]:,}", archive.path, shape[1], path)
    read = f"content = numpy.load({str(path)!r})\n    names, features = content['names'], content['features']"
    log.info("Read them with:\n    %s", f"rows = pandas.read_parquet({str(path)!r})" if table else read)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="embed")
def command(config: DictConfig) -> None:
    with clear_errors("close other programs"):
        embed(config)


def main() -> None:
    run_command(command, "embed", words=("images",))
