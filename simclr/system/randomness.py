"""Random numbers addressed by what they are for, so that no order of work can change them."""

import zlib

import numpy as np
import torch


def generator(stream: str, *key: int) -> torch.Generator:
    """A fresh CPU generator that is a pure function of its address.

    stream: what the numbers are for, such as "augment"; streams with different names are independent.
    key: non-negative integers that complete the address, usually seed, step and rank.

    Two calls with one address give equal numbers in any process, on any number of threads, before or after a resume;
    that is why runs draw from here and never from a generator whose state depends on what was drawn before. The mixing
    is NumPy's SeedSequence, which keeps neighbouring seeds and steps uncorrelated.
    """
    # The length is part of the address: SeedSequence takes no notice of zeros at the end.
    words = np.random.SeedSequence([zlib.crc32(stream.encode()), len(key), *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]))
