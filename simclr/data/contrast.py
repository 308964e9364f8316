"""Images in which there is next to nothing to see: said before somebody looks for the reason in the training."""

from __future__ import annotations

import logging

import numpy as np

from simclr.data.store import ImageStore, Splits

log = logging.getLogger(__name__)

SAMPLE = 64  # images that are looked at, spread evenly
STRAY = 0.001  # share of an image's values that may lie outside of what counts as its range, on either side
LITTLE = 32  # values, of 256: 12 bits taken for 16 leave 16, a photograph at night uses far more
NEARLY_ALL = 0.9  # of the images; in a microscope's, many fields may be empty


def warn_of_little_contrast(images: Splits) -> None:
    """Log a warning for each split of whose images nearly all are nearly of one colour, black for instance."""
    unlabelled = None if images.pretrain is images.train else images.pretrain
    for name, store in (("unlabelled", unlabelled), ("training", images.train), ("validation", images.val)):
        remark = None if store is None else little_contrast(store)
        if remark is not None:
            log.warning("Nearly all %s images %s.", name, remark)


def little_contrast(store: ImageStore) -> str | None:
    """What is wrong with the contrast of a store's images, judged by a sample; None if nothing is."""
    rows = store.rows[np.unique(np.linspace(0, len(store) - 1, SAMPLE).round().astype(int))]
    darkest, brightest = np.transpose([_range(store.pixels[row]) for row in rows])
    if np.quantile(brightest - darkest, NEARLY_ALL) >= LITTLE:
        return None
    low, high = darkest.min(), np.quantile(brightest, NEARLY_ALL)
    kind = "nearly black" if high < LITTLE else "nearly white" if low >= 256 - LITTLE else "nearly of one colour each"
    return (
        f"are {kind} (within an image values differ by {(brightest - darkest).max()} of 255 at most), and leave "
        "little to learn, whatever the rate and the batch size. Look at the files; gray images of 16 bits that use "
        "fewer are scaled by data.bits of data=image_folder, others have to be saved with more contrast"
    )


def _range(image: np.ndarray) -> tuple[int, int]:
    """The least and the largest value of an image (uint8), stray ones aside."""
    up_to = np.bincount(image.ravel(), minlength=256).cumsum()
    low, high = np.searchsorted(up_to, [STRAY * image.size, (1 - STRAY) * image.size])
    return int(low), int(high)
