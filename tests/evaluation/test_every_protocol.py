"""What every protocol keeps to: a new file in configs/protocol is tested without a line here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from simclr.data import columns
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.protocol import Protocol, Subject
from simclr.models.backbone import resnet18_encoder
from simclr.models.heads import LinearHead
from simclr.models.text import TextTransformer
from simclr.models.tokenizer import BytePairs
from simclr.runs.build import build
from simclr.runs.compose import compose_config
from simclr.runs.configs import CONFIGS
from simclr.runs.results import write_json

PROTOCOLS = sorted(path.stem for path in (CONFIGS / "protocol").glob("*.yaml"))


def images(count: int, seed: int) -> ImageStore:
    """Of three classes told by colour, with a box, a mask and two captions each."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 60, (count, 32, 32, 3), dtype=np.uint8)
    pixels[np.arange(count), :, :, labels] += 120
    corner = random.integers(0, 16, (count, 2))
    known = {"labels": columns.labels(labels, "rgb"), "boxes": columns.boxes(np.hstack([corner, corner + 12]))}
    known["masks"] = columns.masks(np.repeat(labels, 32 * 32).reshape(-1, 32, 32), "rgb")
    known["captions"] = columns.captions([[f"image {i}", f"one of class {i % 3}"] for i in range(count)])
    return ImageStore.of(pixels, known)


def subject_of(protocol: Protocol, encoder: nn.Module, folder: Path) -> Subject:
    """With a head and a text tower where it asks for them."""
    head, text = LinearHead(512, 16), TextTransformer(BytePairs(512, True), 16, width=32, depth=1, heads=2, context=8)
    text.learn_words(["image 1 2 3", "one of class"])
    wanted = {"head": head, "text": text}
    parts: dict[str, Any] = {name: part if name in protocol.parts else None for name, part in wanted.items()}
    return Subject(
        encoder, parts["head"], images(60, 0), images(30, 1), torch.device("cpu"), folder, text=parts["text"]
    )


@pytest.fixture(params=PROTOCOLS)
def protocol(request) -> Protocol:
    config = compose_config(f"protocol={request.param}", command="linear_eval")
    if request.param == "finetune":
        config.protocol.epochs, config.protocol.lr = 1, [0.01]
    return build(config.protocol)


def test_it_says_what_it_needs_and_refuses_what_lacks_it(protocol):
    train, val = images(30, 0), images(12, 1)
    protocol.check(train, val)
    for column in protocol.needs:
        bare = replace(val, columns={name: known for name, known in val.columns.items() if name != column})
        with pytest.raises(InputError, match=f"{protocol.name} evaluation needs .* with {column}"):
            protocol.check(train, bare)
    with pytest.raises(InputError, match=f"{protocol.name} evaluation needs"):
        protocol.check(train, None)


def test_it_answers_with_a_number_its_interval_and_words_and_leaves_the_encoder_alone(protocol, tmp_path):
    torch.manual_seed(0)
    encoder = resnet18_encoder("standard")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    subject = subject_of(protocol, encoder, tmp_path)
    numbers, words, lines = protocol.judge(subject)
    first = next(iter(numbers))
    assert numbers[f"{first}_low"] <= numbers[first] <= numbers[f"{first}_high"]
    assert words.keys() >= {protocol.name} or words.keys() >= {"linear"}
    assert all(len(text) > 40 for text in words.values())
    assert lines
    write_json(tmp_path / "result.json", numbers)
    assert "not_finite" not in json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
