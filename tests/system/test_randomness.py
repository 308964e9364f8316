"""Addressed random numbers."""

import torch

from simclr.system.randomness import generator


def numbers(*address) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=generator(*address)).tolist())


def test_an_address_has_its_own_numbers():
    addresses = [("a",), ("b",), ("a", 0), ("a", 1), ("a", 0, 1), ("a", 1, 0), ("a", 0, 0, 0)]
    assert len({numbers(*address) for address in addresses}) == len(addresses)
    assert numbers("a", 3, 4) == numbers("a", 3, 4)


def test_neighbouring_addresses_are_uncorrelated():
    streams = torch.stack([torch.randn(2000, generator=generator("a", 0, step)) for step in range(50)])
    correlation = torch.corrcoef(streams) - torch.eye(50)
    assert correlation.abs().max() < 5 / 2000**0.5
