"""Arguments that Hydra would misread: held against the shell's own splitting and Hydra's own parser."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from simclr.commands.arguments import prepared, quoted
from simclr.errors import InputError
from tests.conftest import TINY_RUN, Run, only_run

ODD = [
    *("/a/b (copy)", "/a/[1]/b", "/a/{b}", "a,b", "a=b", "mü/größe", "图片", "/x/${foo}", "/x/${oc.env:HOME}"),
    *("it's", 'a "quote"', "back\\slash", "ends\\", 'both\\"', "two  spaces ", "#1", "a;b&c", "100", "null", "true"),
    *("plain/path-1.2", "with space", "$HOME", "`id`", "*", "~x", "", "\\${x}"),
]


def as_pasted(argument: str) -> object:
    """What a command gets whose line ends with this argument."""
    (word,) = shlex.split(argument)
    override = OverridesParser.create().parse_override(word)
    assert not override.is_sweep_override()
    return OmegaConf.create({"key": override.value()}).key


@pytest.mark.parametrize("value", ODD)
def test_what_is_quoted_arrives_as_it_was(value):
    assert as_pasted(quoted("data.root", value)) == value


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_so_does_any_text(value):
    assert as_pasted(quoted("data.root", value)) == value


def test_what_needs_no_quotes_gets_none():
    assert quoted("run", "outputs/simclr-modified-slim-seed0-89e4526d") == (
        "run=outputs/simclr-modified-slim-seed0-89e4526d"
    )


@pytest.mark.parametrize("value", ["/a/b (copy)", "/a/[1]", "a=b", "mü", "图片", "/x/${foo}", "#1"])
def test_an_argument_that_cannot_be_read_is_shown_as_one_that_can(value):
    with pytest.raises(InputError) as refused:
        prepared([f"data.root={value}"], "train")
    shown = str(refused.value).split("write it like this: ")[1]
    assert as_pasted(shown) == value
    assert prepared(shlex.split(shown), "train") == shlex.split(shown)


def test_home_is_expanded_and_what_hydra_reads_stays():
    home = Path.home()
    assert prepared(["data.root=~/images", "+x=~", "a=~/b,~/c"], "train") == [
        f"data.root={home}/images",
        f"+x={home}",
        f"a={home}/b,{home}/c",
    ]
    for argument in ("seed=1,2", "~callbacks", "--cfg", "name=${choice:head}", "name=${head.out_features}", "a=[1,2]"):
        assert prepared([argument], "train") == [argument]


@pytest.mark.parametrize("value", ["null", "false", "False", "None", "none", ""])
def test_what_people_write_for_no_logger(value):
    assert prepared([f"logger={value}", f"callbacks={value}"], "train") == ["logger=none", "callbacks=none"]
    assert prepared([f"limit_images={value}"], "train") == [f"limit_images={value}"]


@pytest.mark.slow
def test_a_run_in_a_folder_with_an_odd_name_below_home_ends_with_a_line_that_can_be_pasted(
    run: Run, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    done = run("train.py", *TINY_RUN, "epochs=1", "callbacks=null", 'output_root="~/größe (1), a=b"')
    run_dir = only_run(tmp_path / "größe (1), a=b")
    line = next(line for line in done.stdout.splitlines() if line.startswith("Done. "))
    _, script, argument = shlex.split(line.split(": ", 1)[1])
    assert as_pasted(shlex.quote(argument)) == str(run_dir)
    assert "top-1" in run(script, argument, "protocol=knn", "limit_images=16").stdout
    # Libraries keep their caches at home as well.
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == [run_dir.parent.name]


@pytest.mark.slow
def test_the_command_says_it_in_one_line(run: Run, tmp_path):
    done = run("train.py", f"data.root={tmp_path}/a (copy)", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: data.root=")
