"""Weights of others: a state dict of torchvision, lightly, timm or one's own, for a backbone that it fits wholly."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from simclr.errors import InputError
from simclr.models.backbone import Encoder
from simclr.runs.build import factory
from simclr.runs.checkpoint import EXPORTED, is_of_a_run, read_plain
from simclr.system.files import digest_of, is_file

log = logging.getLogger(__name__)

# What a file may keep its weights under.
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
SHOWN = 5  # names that a message lists of each kind


class Foreign(NamedTuple):
    """weights: by the names in the file. about: what `python -m simclr.export` noted beside them, if it wrote it.

    of_a_run: whether the file is a checkpoint of this project.
    """

    weights: dict[str, Tensor]
    about: dict[str, Any]
    of_a_run: bool


class Fit(NamedTuple):
    """Which of a file's tensors are a network's.

    found: by the network's names. missing: those that the file lacks, or has in another shape, in words. strange: names
    in the file that the network would have if it were theirs, as those of further blocks. unused: the rest of them.
    prefix: what stands in the file before the network's own names.
    """

    found: dict[str, Tensor]
    missing: list[str]
    strange: list[str]
    unused: list[str]
    prefix: str


def read_weights(path: Path) -> Foreign:
    """The tensors of a safetensors file, or of one that torch.save wrote; nothing but plain data is ever unpickled.

    Raises InputError for a file that is absent, damaged or would run code, and for one that holds no tensors.
    """
    if not is_file(path):
        raise InputError(f"there is no file {path}; give that of a state dict: torch.save's, or safetensors")
    about: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
                about = json.loads((file.metadata() or {}).get(EXPORTED, "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as safetensors ({error}); use another file") from error
    else:
        content = read_plain(path)
    of_a_run = is_of_a_run(content)
    for _ in WRAPPERS:  # one within another
        inner = next((content[key] for key in WRAPPERS if isinstance(content, dict) and key in content), None)
        if isinstance(inner, dict):
            content = inner
    entries = content.items() if isinstance(content, dict) else ()
    weights = {str(name): tensor for name, tensor in entries if isinstance(tensor, Tensor)}
    if not weights:
        raise InputError(f"{path} holds no state dict; write one with torch.save(network.state_dict(), PATH)")
    return Foreign(weights, about if isinstance(about, dict) else {}, of_a_run)


def fit(weights: Mapping[str, Tensor], network: nn.Module, prefix: str | None = None) -> Fit:
    """The part of a file's weights that is the network's, wherever the file keeps it.

    A method keeps its backbone under a prefix, as `backbone.`, and lightly's examples keep torchvision's networks as a
    Sequential of their children, `0.weight` for `conv1.weight`. Of all these the one counts of which most tensors fit,
    of equals the first in the file: a momentum copy comes later. prefix: that one alone.
    """
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    numbers = {name: str(number) for number, (name, _) in enumerate(network.named_children())}
    choices: list[tuple[dict[str, str], str]] = []
    for rename in (lambda name: name, lambda name: _numbered(name, numbers)):
        names = {name: rename(name) for name in wanted}
        found = [prefix] if prefix is not None else _prefixes(weights, set(names.values()))
        choices += [(names, before) for before in found]

    def count(choice: tuple[dict[str, str], str]) -> int:
        names, before = choice
        stored = ((weights.get(before + names[name]), tensor) for name, tensor in wanted.items())
        return sum(theirs is not None and theirs.shape == tensor.shape for theirs, tensor in stored)

    return _fit(weights, wanted, *max(choices, key=count))  # of equals the first


def _numbered(name: str, numbers: Mapping[str, str]) -> str:
    first, _, rest = name.partition(".")
    return f"{numbers.get(first, first)}.{rest}"


def _prefixes(weights: Iterable[str], names: set[str]) -> list[str]:
    """What stands in a file before a network's names, in the order of the file; "" where there is nothing to see."""
    found = {"": None}
    for stored in weights:
        parts = stored.split(".")
        for n in range(1, len(parts)):
            if ".".join(parts[n:]) in names:
                found.setdefault(".".join(parts[:n]) + ".")
    return list(found)


def _fit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, str], prefix: str) -> Fit:
    found, missing = {}, []
    for name, tensor in wanted.items():
        stored = weights.get(prefix + names[name])
        if stored is None:
            missing.append(name)
        elif stored.shape != tensor.shape:
            missing.append(f"{name} (there {_shape(stored)}, here {_shape(tensor)})")
        else:
            found[name] = stored
    taken = {prefix + names[name] for name in found}
    left = [name for name in weights if name not in taken and not name.endswith("num_batches_tracked")]
    within = _within(names.values())
    strange = [name for name in left if name.startswith(prefix) and within(name.removeprefix(prefix))]
    return Fit(found, missing, strange, [name for name in left if name not in strange], prefix)


def _within(own: Iterable[str]) -> Callable[[str], bool]:
    """Tells of a tensor whether it is in a module of the network, or in a block beside its own, and so of no head."""
    modules = {name.rpartition(".")[0] for name in own}
    containers = {module[:end] for module in modules for end in range(len(module)) if module[end] == "."} | modules

    def tell(name: str) -> bool:
        parts = name.split(".")
        blocks = (".".join(parts[:n]) for n in range(1, len(parts)) if parts[n].isdigit())
        return name.rpartition(".")[0] in modules or any(block in containers for block in blocks)

    return tell


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def put_into(network: nn.Module, weights: Mapping[str, Tensor], path: Path, prefix: str | None = None) -> None:
    """Give a network the weights of a file, and say what of the file is not used.

    Raises InputError where a tensor of the network is not among them, or they have more layers than it: what would come
    of it is nobody's network. `num_batches_tracked`, which nothing reads, may be missing.
    """
    result = fit(weights, network, prefix)
    total, under = len(result.found) + len(result.missing), f" under {result.prefix}" if result.prefix else ""
    if result.missing or result.strange:
        lacks = f"lacks {_some(result.missing)}" if result.missing else f"more layers, as {_some(result.strange)}"
        raise InputError(
            f"{path} does not fit this backbone: it has {len(result.found)} of its {total} tensors{under}, and "
            f"{lacks}; choose the network, and its stem, that these weights are of, with backbone="
        )
    network.load_state_dict(result.found, strict=False)
    rest = f"; not used: {_some(result.unused)}" if result.unused else ""
    log.info("All %d tensors of the backbone are from %s%s%s.", total, path, under, rest)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def backbone_factory(config: DictConfig) -> Callable[[], Encoder]:
    """What makes the backbone of a configuration, with the weights at its pretrained_path where it has one.

    It raises InputError where these are gone, or are not those that the configuration was composed with.
    """
    plain = config.copy()
    with open_dict(plain):
        path, digest = (plain.pop(key, None) for key in ("pretrained_path", "pretrained_digest"))
    make = factory(plain)
    if path is None:
        return make

    def made() -> Encoder:
        network, file = make(), Path(str(path)).expanduser()
        foreign = read_weights(file)
        if digest_of(file) != digest:
            raise InputError(
                f"the weights at backbone.pretrained_path={path} are not those that this run began with; restore them"
            )
        put_into(network, foreign.weights, file)
        return network

    return made


def others_backbone(config: DictConfig, path: Path, part: str) -> tuple[Encoder, dict[str, Any]]:
    """The backbone that `config` describes, with the weights of a file that is no checkpoint of this project.

    part: "backbone" for whichever fits best, or what stands before the names of another, as "backbone_momentum".
    Returns with it what `python -m simclr.export` noted in the file.
    """
    if OmegaConf.select(config, "pretrained_path") is not None:
        raise InputError("backbone.pretrained_path is where training begins; the weights to judge are those of ckpt=")
    foreign, network = read_weights(path), backbone_factory(config)()
    if foreign.of_a_run:
        raise InputError(f"{path} is a checkpoint of this project and says what its backbone is; leave backbone= out")
    put_into(network, foreign.weights, path, None if part == "backbone" else f"{part}.")
    return network, foreign.about
