"""Captions on disk: tables of images and captions, and files of captions beside each image."""

from __future__ import annotations

import codecs
import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from simclr.data.checks import listed
from simclr.data.files.archive import composed
from simclr.data.files.contents import ending, shown
from simclr.errors import InputError, first_line

ENDINGS = frozenset({".csv", ".tsv", ".jsonl", ".json"})
# What columns are called, where the user does not say.
USUAL = {
    "image": ("image", "image_name", "filename", "file_name", "filepath", "file", "image_path", "path", "img"),
    "caption": ("caption", "captions", "text", "sentence", "sentences", "comment", "title", "raw"),
    "split": ("split", "fold", "subset", "set"),
}
DELIMITERS = ",;|\t"
MAX_FIELD = 2**20  # characters of a caption
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Row(NamedTuple):
    """A caption of an image, the split that it is in if the table says one, and where: "line 12" """

    image: str
    caption: str
    split: str | None
    where: str


class Table:
    """The rows of one file: CSV and its kin, JSON lines, the JSON of Karpathy and of COCO, or captions of one image.

    name: for messages, and its ending says the format. encoding: of the text, where no byte-order mark says it.
    columns: what "image", "caption" and "split" are called, None for the usual names. Fields of a CSV may be quoted and
    then hold line breaks; in a TSV quotes are letters. A JSON line, and an entry of a JSON file, may have a list of
    captions.
    """

    def __init__(self, data: bytes, name: str, encoding: str, columns: Mapping[str, str | None]) -> None:
        self.name, self.columns = name, columns
        self.text = self._decoded(data, encoding)

    def rows(self) -> Iterator[Row]:
        """Raises InputError, which names the line, for what is no table of images and captions."""
        kind = ending(self.name)
        entries = self._objects() if kind == ".jsonl" else self._json() if kind == ".json" else self._delimited(kind)
        for where, entry in entries:
            image = self._value(entry, "image", where)
            if not isinstance(image, str) or not image.strip():
                raise self._fault(where, "names no image")
            yield from self._captions(entry, image.strip(), where)

    def of(self, image: str) -> Iterator[Row]:
        """The rows of the one image that the file lies beside: a caption a line, or a JSON object.

        Raises InputError as `rows` does.
        """
        if ending(self.name) == ".json":
            where = "the content"
            for row in self._captions(self._object(self.text, where), image, where):
                yield row._replace(where=self.name)
            return
        for line in list(filter(str.strip, self.text.splitlines())) or [""]:
            yield Row(image, line.strip(), None, self.name)

    def _captions(self, entry: Mapping[str, Any], image: str, where: str) -> Iterator[Row]:
        captions, split = (self._value(entry, role, where) for role in ("caption", "split"))
        if not isinstance(split, str | None):
            raise self._fault(where, f"has {shown(split)} for a split, which is no text")
        for caption in captions if isinstance(captions, list) else [captions]:
            text = caption.get("raw") if isinstance(caption, dict) else caption
            if not isinstance(text, str | None):
                raise self._fault(where, f"has {shown(text)} for a caption, which is no text")
            yield Row(image, (text or "").strip(), split and split.strip(), where)

    def _fault(self, where: str, what: str) -> InputError:
        return InputError(f"{where} of {shown(self.name)} {what}; correct it, or take it out")

    def _decoded(self, data: bytes, encoding: str) -> str:
        encoding = next((by for mark, by in BOMS if data.startswith(mark)), encoding)
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise InputError(
                f"line {line} of {shown(self.name)} is not text in {encoding} ({error.reason}); say which encoding it "
                "has with data.encoding=, as latin-1 or cp1252"
            ) from error

    def _value(self, entry: Mapping[str, Any], role: str, where: str) -> Any:
        wanted = self.columns.get(role)
        found = [name for name in ([wanted] if wanted is not None else USUAL[role]) if name in entry]
        if found:
            return entry[found[0]]
        if role == "split" and wanted is None:
            return None
        name = f"no {role} column" if wanted is None else f"no column {shown(wanted)}"
        raise InputError(
            f"{where} of {shown(self.name)} has {name}, but {listed(map(str, entry))}; name it with data.{role}_column="
        )

    def _delimited(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        first = self.text.lstrip("\n\r").split("\n", 1)[0]
        delimiter = "\t" if kind == ".tsv" else max(DELIMITERS, key=first.count)
        lines = io.StringIO(self.text, newline="")
        if delimiter == "\t":
            reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
        else:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        before, limit = 0, csv.field_size_limit(MAX_FIELD)
        header: list[str] = []
        try:
            for fields in reader:
                where, before = f"line {before + 1}", reader.line_num
                if not fields:
                    continue
                if not header:
                    header = [field.strip() for field in fields]
                    self._check_header(header, where)
                elif len(fields) != len(header):
                    raise self._fault(where, f"has {len(fields)} fields, where the first has {len(header)}")
                else:
                    yield where, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise self._fault(
                f"line {before + 1}", f"is broken ({error}), by a quote that is not closed or doubled?"
            ) from error
        finally:
            csv.field_size_limit(limit)

    def _check_header(self, header: list[str], where: str) -> None:
        for role in USUAL:
            self._value(dict.fromkeys(header), role, where)
        if len(set(header)) < len(header):
            raise self._fault(where, f"has two columns of one name ({listed(header)})")

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(self.text.split("\n"), start=1):
            if line.strip():
                yield f"line {number}", self._object(line, f"line {number}")

    def _object(self, text: str, where: str) -> dict[str, Any]:
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._fault(where, f"is no JSON ({first_line(error)})") from error
        if not isinstance(entry, dict):
            raise self._fault(where, "is no JSON object, as {...}")
        return entry

    def _json(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Karpathy's: {"images": [{"filename", "split", "sentences"}]}; COCO's has its captions in "annotations"."""
        content = self._object(self.text, "the content")
        images, notes = content.get("images", ()), content.get("annotations")
        if not _objects(images) or (notes is not None and not _objects(notes)):
            raise InputError(
                f"{shown(self.name)} is no JSON of Karpathy's or COCO's kind, which has a list of images; other JSON "
                "is to have an object a line, and the ending .jsonl"
            )
        if not notes:
            for number, image in enumerate(images, start=1):
                folder, name = image.get("filepath"), image.get("filename")
                path = {"filename": f"{folder}/{name}"} if isinstance(folder, str) and isinstance(name, str) else {}
                rest = {key: value for key, value in image.items() if key != "filepath"} if path else image
                yield f"image {number}", rest | path
            return
        names = {image.get("id"): image.get("file_name") for image in images}
        for number, note in enumerate(notes, start=1):
            yield f"annotation {number}", {"image": names.get(note.get("image_id")), "caption": note.get("caption")}


def _objects(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(entry, dict) for entry in content)


class Finder:
    """Which image of an archive a row means."""

    def __init__(self, names: Iterable[str]) -> None:
        self.whole = {composed(name): name for name in names}
        self.named: set[str] = set()
        self.ends: dict[str, list[str]] = {}
        for path, name in self.whole.items():
            self.ends.setdefault(path.rpartition("/")[2], []).append(name)

    def __call__(self, row: Row) -> str | None:
        """Its name in the archive; None where it is not there. Raises InputError where it may be several."""
        path = posixpath.normpath(composed(row.image.replace("\\", "/")))
        found = [self.whole[path]] if path in self.whole else []
        if not found:
            alike = self.ends.get(path.rpartition("/")[2], [])
            found = [name for name in alike if f"/{composed(name)}".endswith(f"/{path}")]
        if len(found) > 1:
            raise InputError(
                f"{row.where} names the image {shown(row.image)}, which may be {listed(found)}; give its whole path"
            )
        self.named.update(found)
        return found[0] if found else None

    def unnamed(self) -> list[str]:
        """The images that no row has meant."""
        return sorted(set(self.whole.values()) - self.named)
