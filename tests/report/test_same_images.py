"""Images are known by their contents: the same ones elsewhere are the same, others never are."""

import json

import pytest

from simclr.commands.report import command
from tests.report.sweeps import study, write_run


def keys(train: str, val: str = "v") -> dict[str, str]:
    return {"train_images_key": train * 16, "val_images_key": val * 16}


def test_other_images_are_a_factor_and_the_same_ones_elsewhere_are_none(tmp_path, cells):
    config = cells["modified", "slim"]
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", config, seed, 40.0 + seed, keys("a"), data__root="/images/A")
        moved = "/images/B" if seed else "/mnt/copy of B"
        write_run(tmp_path / f"b{seed}", config, seed, 50.0 + 1.1 * seed, keys("b"), data__root=moved)
    found = study(tmp_path)
    (factor,) = found.design.factors
    assert factor.name == "data.root"
    assert factor.levels in (("A", "B"), ("A", "copy of B"))
    assert found.repeated == []
    assert [found.mean(found.primary.column, (level,)).mean for level in factor.levels] == pytest.approx([41.0, 51.1])
    assert command([str(tmp_path)]) == 0
    assert "Not all runs are judged on the same images" in (tmp_path / "report" / "report.md").read_text("utf-8")


def test_images_that_changed_in_their_place_are_others(tmp_path, cells):
    for name, known in (("a", keys("a")), ("b", keys("b")), ("c", keys("a", "w")), ("d", keys("a"))):
        write_run(tmp_path / name, cells["modified", "slim"], 0, 40.0, known)
    found = study(tmp_path)
    assert found.repeated == ["d"]
    assert set(found.design.factors[0].levels) == {
        "data (aaaaaa vvvvvv)",
        "data (bbbbbb vvvvvv)",
        "data (aaaaaa wwwwww)",
    }


def test_settings_that_change_what_is_seen_of_the_same_images_do_so_alone(tmp_path, cells):
    """Two sizes at two paths of one place: what was seen has four keys, and the size is the one factor."""
    sizes = ((32, keys("a")), (64, keys("b")))
    for size, known in sizes:
        for seed in range(2):
            changes = {"data__root": f"/place {seed}", "data__size": size}
            write_run(tmp_path / f"{size}-{seed}", cells["modified", "slim"], seed, 40.0 + seed, known, **changes)
    assert [factor.name for factor in study(tmp_path).design.factors] == ["data.size"]
    for seed in range(2):  # limit_images takes others, too
        changes = {"data__root": f"/place {seed}", "limit_images": 100}
        write_run(tmp_path / f"few-{seed}", cells["modified", "slim"], seed, 40.0, keys("c"), **changes)
    assert [factor.name for factor in study(tmp_path).design.factors] == ["limit_images", "data.size"]


def test_runs_that_do_not_tell_their_images_are_known_by_the_path(tmp_path, cells):
    """Those of older releases; one such run and a newer one of one path are alike."""
    for seed, known in enumerate((None, keys("a"))):
        write_run(tmp_path / f"a{seed}", cells["modified", "slim"], seed, 40.0, known, data__root="/x/images")
        write_run(tmp_path / f"b{seed}", cells["modified", "slim"], seed, 50.0, data__root="/y/images/")
    found = study(tmp_path)
    assert [(f.name, f.levels) for f in found.design.factors] == [("data.root", ("x/images", "y/images"))]
    assert found.repeated == []


def test_a_leak_stands_beside_the_findings(tmp_path, cells):
    for seed in range(2):
        run = write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0, {"val_images_in_train": 3 * seed})
    assert command([str(tmp_path)]) == 0
    said = "LEAK: validation images are training images too, {} at most, in 1 of 2 runs"
    assert said.format(3) in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    judged = json.loads((run / "linear_eval.json").read_text(encoding="utf-8")) | {"val_images_in_train": 1200}
    (run / "linear_eval.json").write_text(json.dumps(judged), encoding="utf-8")
    assert command([str(tmp_path)]) == 0
    assert said.format("1,200") in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
