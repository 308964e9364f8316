"""What the folders of somebody's own images mean: splits by their usual names, classes, or nothing."""

from __future__ import annotations

import logging
import re
from collections import Counter

from simclr.data import columns
from simclr.data.checks import listed
from simclr.data.files.archive import Archive, composed
from simclr.data.files.contents import shown
from simclr.data.store import Plan, Split
from simclr.errors import InputError

log = logging.getLogger(__name__)

OF_IMAGES = r"([ _-]?(images?|imgs?|photos?|data|set))?"
ROLES = {
    "train": re.compile(rf"(train|training|trn){OF_IMAGES}"),
    "val": re.compile(rf"(val|valid|validation|validate|eval|dev){OF_IMAGES}"),
    "test": re.compile(rf"(test|testing|tst){OF_IMAGES}"),
}


def plan_of(archive: Archive, packed: bool, train: str | None, val: str | None) -> Plan:
    """The splits of an archive, with labels where folders tell them.

    train, val: the splits' folders, where the user names them. packed: whether a folder around everything is none of
    the user's own, as in zips. Raises InputError where the folders can be taken in several ways.
    """
    names = sorted(archive.names(), key=lambda name: (composed(name), name))  # the same order on every system
    if not names:
        passed = f"; there is {archive.passed_over}" if archive.passed_over.counts else ""
        raise InputError(f"data.root={shown(archive.path)} holds no images (files that end in .jpg, .png, ...){passed}")
    try:
        tops = _given(names, train, val) if train is not None or val is not None else _recognised(names, packed)
    except ValueError as error:
        raise InputError(f"{shown(archive.path)} {shown(error)}") from error
    depth = tops["train"].count("/")
    members: dict[str, list[str]] = {split: [] for split in tops}
    for name in names:
        inside = [split for split, top in tops.items() if name.startswith(top)]
        if inside:
            members[max(inside, key=lambda split: len(tops[split]))].append(name)
        else:
            parts = name.split("/")
            kind = "/".join(parts[:depth]) + "/" if len(parts) > depth else "images beside the splits"
            archive.passed_over.add(kind, name, serious=True)
    for split, found in members.items():
        if not found:
            raise InputError(f"{shown(archive.path)} holds no images in {shown(tops[split])} (.jpg, .png, ...)")
    return _labelled(archive, tops, members)


def _levels(names: list[str]) -> list[str]:
    """The folders that everything lies in, from "" inwards: "", "images/", "images/tiny/"."""
    levels = [""]
    while True:
        rest = [name.removeprefix(levels[-1]) for name in names]
        tops = {name.partition("/")[0] if "/" in name else "" for name in rest}
        if len(tops) != 1 or "" in tops:
            return levels
        levels.append(f"{levels[-1]}{tops.pop()}/")


def _given(names: list[str], train: str | None, val: str | None) -> dict[str, str]:
    """The folders that the user names, below whatever folder is around everything."""
    tops = {}
    for split, folder in (("train", train), ("val", val)):
        if folder == ".":
            tops[split] = ""
        elif folder is not None:
            ways = [f"{level}{folder}/" for level in _levels(names)]
            tops[split] = next((way for way in ways if any(name.startswith(way) for name in names)), ways[0])
    if train is None:
        level = tops["val"].removesuffix(f"{val}/")
        found = _by_role(names, level)[0]["train"]
        if len(found) != 1:
            raise ValueError("has no one folder to train on; name it with data.train=FOLDER, beside data.val")
        tops = {"train": f"{level}{found[0]}/"} | tops
    return tops


def _by_role(names: list[str], level: str) -> tuple[dict[str, list[str]], list[str], set[str]]:
    """The folders at a level by what their names say, those that say nothing, and which of all hold folders."""
    inside = [name.removeprefix(level).split("/") for name in names if name.startswith(level)]
    tops = sorted({parts[0] for parts in inside if len(parts) > 1})
    roles = {role: [top for top in tops if words.fullmatch(top.strip().casefold())] for role, words in ROLES.items()}
    others = [top for top in tops if not any(top in of for of in roles.values())]
    return roles, others, {parts[0] for parts in inside if len(parts) > 2}


def _recognised(names: list[str], packed: bool) -> dict[str, str]:
    """The splits by their usual names, at the first level that has some; else everything is "train"."""
    levels = _levels(names)
    for level in levels:
        splits = _splits_at(names, level)
        if splits:
            return {split: f"{level}{top}/" for split, top in splits.items()}
    if not packed and len(levels) > 1 and len(_by_role(names, levels[-1])[1]) > 1:
        log.warning("All images lie in %s, whose folders are classes if data.root names it.", shown(levels[-1]))
    return {"train": levels[-1] if packed else ""}


def _splits_at(names: list[str], level: str) -> dict[str, str]:
    """The folders of the splits at a level, none where all are classes. Raises ValueError where they may be either."""
    roles, others, nested = _by_role(names, level)
    train, val, test = roles.values()
    each = "data.train=. takes every folder for a class"
    if len(train) > 1:
        raise ValueError(f"has several folders to train on ({_folders(train)}); name one with data.train=FOLDER")
    if not train:
        if len(val + test) > 1 and not others:
            raise ValueError(
                f"has {_folders(val + test)} and no folder to train on; name it with data.train=FOLDER, and the one to "
                f"judge on with data.val=FOLDER, or {each}"
            )
        return {}
    if len(val) > 1:
        raise ValueError(f"has several folders to validate on ({_folders(val)}); name one with data.val=FOLDER")
    if val:
        return {"train": train[0], "val": val[0]}
    if test:
        raise ValueError(
            f"has {_folders(train + test)} and no val/: data.val={shown(test[0])} judges on that folder, "
            f"data.train={shown(train[0])} leaves it out and holds out data.val_fraction of each class"
        )
    if not others:
        return {"train": train[0]}
    if not nested:  # as every class of vehicles, say
        return {}
    raise ValueError(
        f"has {_folders(train)} beside {_folders(others)}: data.train={shown(train[0])} takes that folder alone, whose "
        f"folders are the classes, {each}"
    )


def _folders(names: list[str]) -> str:
    return ", ".join(f"{shown(name)}/" for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _labelled(archive: Archive, tops: dict[str, str], members: dict[str, list[str]]) -> Plan:
    """Labels by the first folder below each split's; none where there are no two, or most images lie in none."""
    folder_of = {
        name: name.removeprefix(tops[split]).rpartition("/")[0].partition("/")[0]
        for split, found in members.items()
        for name in found
    }
    filed = {split: [name for name in found if folder_of[name]] for split, found in members.items()}
    classes = sorted({composed(folder_of[name]) for found in filed.values() for name in found})
    loose = {split: len(members[split]) - len(found) for split, found in filed.items()}
    mostly_loose = [split for split, found in filed.items() if loose[split] > len(found)]
    if len(classes) < 2 or mostly_loose:  # one class would put k-NN and every probe at 100 %
        if len(classes) > 1:
            log.warning(
                "Most images of %s lie beside its folders, which are no classes then; sort them in to have labels.",
                shown(f"{archive.path}/{tops[mostly_loose[0]]}".rstrip("/")),
            )
        return {split: Split(found) for split, found in members.items()}
    for split, found in members.items():
        for name in found:
            if not folder_of[name]:
                archive.passed_over.add("images beside the classes", name, serious=True)
        spellings = Counter(map(composed, {folder_of[name] for name in filed[split]}))
        twice = [name for name, count in spellings.items() if count > 1]
        if twice:
            log.warning("Several folders are called %s, each spelled another way in Unicode: one class.", listed(twice))
    label_of = {name: label for label, name in enumerate(classes)}
    of = {split: [label_of[composed(folder_of[name])] for name in found] for split, found in filed.items()}
    unseen = set(of.get("val", ())) - set(of["train"])
    if unseen:
        _refuse_class(archive, tops, classes, classes[min(unseen)])
    return {split: Split(filed[split], {"labels": columns.labels(of[split], classes)}) for split in members}


def _refuse_class(archive: Archive, tops: dict[str, str], classes: list[str], name: str) -> None:
    train, val = (f"{shown(archive.path)}/{shown(tops[split].rstrip('/'))}" for split in ("train", "val"))
    if name == "images":
        raise InputError(
            f"{val} holds its images in one folder, {name}, that says no class, as Tiny ImageNet does, which is read "
            f"by data=tiny_imagenet data.root={shown(archive.path)}; sort other images into a folder for each class"
        )
    near = [other for names in alike(classes) if name in names for other in names if other != name]
    raise InputError(
        f"{val} has the class {shown(name)}, and {train} has not; add it or take it out"
        + (f", or give it the name of {listed(near)}" if near else "")
    )


def alike(classes: list[str]) -> list[list[str]]:
    """The classes that a person would take for one: their names differ in case or blanks alone."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(" ".join(name.split()).casefold(), []).append(name)
    return [names for names in groups.values() if len(names) > 1]
