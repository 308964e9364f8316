"""What makes two commands the same run, across versions of this project: one file that knows it, and no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

# What a run is called, where it lives, how it restarts and is judged: all the rest is what it *is*, and names its
# directory.
NOT_HASHED = {"hydra", "name", "output_root", "sweep", "resume", "requeue_exit_code", "evaluate", "threads"}

ANY = object()  # no value of the key changes what is computed, beyond rounding

# Every key that has come since the first version, in order, with the value that a run had which did not know it. A new
# key of configs/ gets a line at the end, so that runs begun before it are found and go on.
LATER: tuple[tuple[str, Any], ...] = (
    ("compile", False),
    ("backbone.small_maps", ANY),
    ("optimizer.fused", ANY),
    ("on_nan", "stop"),
    ("method.on_nan", "stop"),
    ("method.micro_batch", None),
    ("trainer.strategy", "auto"),
    ("keep_every_n_epochs", ANY),
    ("callbacks.label_free", ANY),
    ("data.bits", 16),
    ("augmentation.views", 2),
    ("method.decay_norms_and_biases", True),
)


def as_dict(config: DictConfig) -> dict[str, Any]:
    """The configuration, resolved, as plain dicts and lists: what checkpoints and JSON files can hold."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def run_identity(config: DictConfig) -> dict[str, Any]:
    """The part of a configuration that decides what a run computes; what has moved has its first name in it."""
    plain = as_dict(OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_HASHED]))
    return json.loads(json.dumps(plain).replace('"simclr.training.', '"simclr.callbacks.'))


def with_later_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier run's configuration, plain, with the keys of `now` that its version did not know: as they then were.

    Where no value of such a key matters, it gets that of `now`.
    """
    result = deepcopy(dict(before))
    for key, then in LATER:
        ours, theirs, leaf = _parent(now, key), _parent(result, key), key.rsplit(".", 1)[-1]
        if ours is not None and theirs is not None and leaf in ours and leaf not in theirs:
            theirs[leaf] = deepcopy(ours[leaf] if then is ANY else then)
    return result


def digests(config: DictConfig) -> Iterator[str]:
    """What names the directory of this run: today's digest first, then that of every earlier version, latest first."""
    identity = run_identity(config)
    yield _digest(identity)
    for key, then in reversed(LATER):
        parent, leaf = _parent(identity, key), key.rsplit(".", 1)[-1]
        if parent is None or leaf not in parent:
            continue
        if then is not ANY and parent[leaf] != then:
            return  # no earlier version could do this
        del parent[leaf]
        yield _digest(identity)


def run_name(parent: str, name: str, *, _root_: DictConfig) -> str:
    """NAME-DIGEST: the directory in `parent` that an earlier version began for this run, else today's."""
    names = [f"{name}-{digest}" for digest in digests(_root_)]
    return next((known for known in names if (Path(str(parent)) / known / "config.yaml").exists()), names[0])


def _parent(config: Mapping[str, Any], key: str) -> Any:
    """The mapping that holds, or would hold, a dotted key; None where there is none."""
    node: Any = config
    for part in key.split(".")[:-1]:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else None


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
