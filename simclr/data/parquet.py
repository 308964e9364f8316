"""Image data sets as Hugging Face and most labs hand them on: Parquet files, or Arrow data sets saved to disk."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from simclr.checks import is_whole
from simclr.data import columns
from simclr.data.files.archive import path_of
from simclr.data.files.contents import shown
from simclr.data.files.rows import Rows
from simclr.data.hub import HUB, fetched
from simclr.data.layout import ROLES
from simclr.data.opening import check_on_broken, open_store
from simclr.data.split import check_val_fraction, completed
from simclr.data.store import Plan, Split, Splits, check_size
from simclr.errors import InputError

# What labels are usually called; of CIFAR-100's two the finer.
LABELS = ("label", "labels", "fine_label", "class", "class_id", "class_name", "category", "target")
UNLABELLED = (None, -1)
Places = dict[str, list[tuple[str, int]]]  # of each split the rows, by file and number


class ParquetImages:
    """The images of a table, each scaled and centre-cropped to size × size.

    root: a file (.parquet, or .arrow as `save_to_disk` writes it), a folder of such, or hf://OWNER/NAME, a data set on
    Hugging Face, of which the Parquet files are fetched once. Splits are told by the names of files or of folders
    (train-00000-of-00002.parquet, validation/...), or by the column `split_column`; where there is no validation split,
    `val_fraction` of each class is held out.
    image_column, label_column: what these are called, None for the usual names. Labels are whole numbers, whose names
    the schema may tell, or texts. train, val: the splits' names, where they are not the usual ones.
    store: the folder for decoded images, None for beside root. on_broken: whether rows without an image that can be
    decoded, or without a label where others have one, end the command ("stop") or are left out ("skip").
    """

    def __init__(
        self,
        root: str,
        size: int,
        val_fraction: float,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        train: str | None = None,
        val: str | None = None,
        store: str | None = None,
        on_broken: str = "stop",
    ) -> None:
        check_size(size)
        check_on_broken(on_broken)
        check_val_fraction(val_fraction)
        self.root = root if str(root).startswith(HUB) else path_of("root", root)
        self.size, self.val_fraction, self.on_broken = size, val_fraction, on_broken
        self.columns = {"image": image_column, "label": label_column, "split": split_column}
        self.names = {"train": train, "val": val}
        self.store = None if store is None else path_of("store", store)

    def load(self) -> Splits:
        """Open the store, after decoding the images if need be. Raises InputError for unusable data."""
        place = self.root if isinstance(self.root, Path) else fetched(self.root)
        if not place.exists():
            raise InputError(
                f"data.root={shown(place)} does not exist; give a .parquet file, a folder of them, or hf://"
            )
        archive = Rows(place, self.columns["image"])
        chosen = [*((f"{key}_column", name) for key, name in self.columns.items()), *self.names.items()]
        images = open_store(
            archive,
            self.size,
            lambda: self._plan(archive),
            "parquet",
            self.store,
            choices="".join(f" {key}={value}" for key, value in chosen if value is not None),
            on_broken=self.on_broken,
        )
        return completed(images, self.val_fraction, shown(self.root), "no labels (data.label_column= names them)")

    def _plan(self, archive: Rows) -> Plan:
        files = archive.files()
        places = self._by_column(archive, files) if self.columns["split"] else self._by_name(archive, files)
        label = self._label_column(archive, files)
        if label is None:
            return {split: Split([f"{file}#{row}" for file, row in rows]) for split, rows in places.items()}
        return self._labelled(archive, places, label)

    def _by_name(self, archive: Rows, files: list[str]) -> Places:
        """The rows of each split, by what their files and folders are called."""
        roles = {file: self._role(Path(file).with_suffix("").parts) for file in files}
        if not any(roles.values()):
            roles = dict.fromkeys(files, "train")
        found: Places = defaultdict(list)
        for file in files:
            if roles[file] in ("train", "val"):
                found[str(roles[file])] += [(file, row) for row in range(archive.table(file).rows)]
            else:
                archive.passed_over.add(f"tables of {roles[file] or 'no split'}", file, serious=roles[file] is None)
        return self._checked(found, {str(role) for role in roles.values()}, archive)

    def _by_column(self, archive: Rows, files: list[str]) -> Places:
        found: Places = defaultdict(list)
        roles = set()
        for file in files:
            names = _values(archive, file, str(self.columns["split"]), "split")
            for row, name in enumerate(names):
                role = self._role([str(name)])
                roles.add(str(role))
                if role in ("train", "val"):
                    found[role].append((file, row))
                else:
                    archive.passed_over.add(f"rows of {shown(name)}", f"{file}#{row}", serious=role is None)
        return self._checked(found, roles, archive)

    def _role(self, parts: Any) -> str | None:
        """train, val or test, by the first of some names that says one; None where none does."""
        for part in parts:
            for split, given in self.names.items():
                if given is not None and re.fullmatch(rf"{re.escape(given)}([-_.].*)?", part):
                    return split
        for part in parts:
            start = re.match(r"[a-z]*", part.casefold())
            role = next((role for role, words in ROLES.items() if start and words.fullmatch(start[0])), None)
            if role is not None and self.names.get(role) is None:
                return role
        return None

    def _checked(self, found: Places, roles: set[str], archive: Rows) -> Places:
        """Raise InputError where there is nothing to train on, or a test split and nothing said of what to judge on."""
        for role, given in self.names.items():
            if given is not None and role not in found:
                raise InputError(f"{shown(archive.path)} has no split called {shown(given)}, as data.{role}= names one")
        if "train" not in found:
            raise InputError(f"{shown(archive.path)} has no split to train on; name it with data.train=")
        if "test" in roles and "val" not in found and self.names["train"] is None:
            raise InputError(
                f"{shown(archive.path)} has a test split and none for validation: data.val=test judges on that one, "
                "data.train=train leaves it out and holds out data.val_fraction of each class"
            )
        return {split: found[split] for split in ("train", "val") if split in found}

    def _label_column(self, archive: Rows, files: list[str]) -> str | None:
        names = archive.table(files[0]).schema.names
        if self.columns["label"] is not None:
            return self.columns["label"]
        return next((name for name in LABELS if name in names), None)

    def _labelled(self, archive: Rows, places: Places, label: str) -> Plan:
        """The splits with labels, or without where no row has one."""
        used = dict.fromkeys(file for rows in places.values() for file, _ in rows)
        known = {file: _values(archive, file, label, "label") for file in used}
        of = {split: [known[file][row] for file, row in rows] for split, rows in places.items()}
        values = [value for every in of.values() for value in every if value not in UNLABELLED]
        if not values:
            return {split: Split([f"{file}#{row}" for file, row in rows]) for split, rows in places.items()}
        classes = _class_names(archive, label, known)
        index = _indices(values, classes, label)
        if classes is None or not is_whole(values[0]):
            classes = [str(value) for value in index]
        plan: dict[str, Split] = {}
        for split, rows in places.items():
            names, labels = [], []
            for (file, row), value in zip(rows, of[split], strict=True):
                if value not in UNLABELLED:
                    names.append(f"{file}#{row}")
                    labels.append(index[value])
                elif self.on_broken == "stop":
                    raise InputError(
                        f"row {row} of {shown(file)} has {label}={value}, and others have a label; mend it, leave such "
                        f"rows out with data.on_broken=skip, or choose other splits with data.train= and data.val="
                    )
                else:
                    archive.passed_over.add("rows without a label", f"{file}#{row}", serious=True)
            if not names:
                raise InputError(f"no row of the {split} split has a label; choose another with data.{split}=")
            plan[split] = Split(names, {"labels": columns.labels(labels, classes)})
        return plan


def _values(archive: Rows, file: str, column: str, key: str) -> list[Any]:
    table = archive.table(file)
    if column not in table.schema.names:
        raise InputError(
            f"{shown(file)} has no column {shown(column)}, as data.{key}_column= names one; it has "
            f"{shown(', '.join(table.schema.names))}"
        )
    return table.values(column)


def _class_names(archive: Rows, label: str, files: Iterable[str]) -> list[str] | None:
    """The names of classes that the tables' schemas have, which must be one list; None where none has any."""
    told = {file: names for file in files if (names := archive.table(file).class_names(label)) is not None}
    for file, names in told.items():
        first, classes = next(iter(told.items()))
        if names != classes:
            raise InputError(
                f"the schemas of {shown(first)} and {shown(file)} name other classes of {shown(label)}, or in another "
                "order, so that one number means two things; write them with one schema, or leave one out"
            )
    return next(iter(told.values()), None)


def _indices(values: list[Any], classes: list[str] | None, label: str) -> dict[Any, int]:
    """The class of every value that a label has. Raises InputError for values that are no labels."""
    whole = all(map(is_whole, values))
    if not whole and not all(isinstance(value, str) for value in values):
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        raise InputError(
            f"the column {shown(label)} holds {kinds}; labels are all whole numbers or all texts: name another column "
            "with data.label_column="
        )
    if whole and classes is not None:
        if beyond := [value for value in values if not 0 <= value < len(classes)]:
            raise InputError(f"{label}={beyond[0]} is none of the {len(classes)} classes that the schema names")
        return {index: index for index in range(len(classes))}
    return {value: index for index, value in enumerate(sorted(set(values)))}
