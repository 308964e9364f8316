"""What is a run's directory, what in it is the run's own, and what is left of a run that was refused."""

import logging
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from simclr.errors import InputError
from simclr.runs.configs import CONFIGS
from simclr.runs.directory import FIGURES, PROTOCOLS, claimed, clear, forget_judgements
from tests.conftest import TINY_RUN
from tests.runs.test_identity import composed

OURS = (
    "metrics.json",
    "backbone.safetensors",
    "backbone.onnx",
    "onnx/text.onnx",
    "search_two-dogs.html",
    "embedded_photos.npz",
    "hparams.yaml",
    "events.out.tfevents.1795592851.host.1.0",
    "evaluation/events.out.tfevents.1795592851.host.1.0",
    "checkpoints/last.ckpt",
    "checkpoints/previous.ckpt",
    "checkpoints/epoch-010.ckpt",
    "features/0123456789abcdef01234567.safetensors",
    "figures/latent_space.png",
    "linear_eval.json",
    "knn_eval_head.json",
    "transfer_eval_image_folder-pets.json",
    "finetune_eval_0.1_epoch-010.json",
)
THEIRS = (
    "notes.txt",
    "my_eval_notes.json",
    "linear_eval_notes.json",
    "results.json",
    "model.part",
    "checkpoints/best.ckpt",
    "checkpoints/upload.1.part",
    "features/mine.safetensors",
    "features/mine/a.npy",
    "figures/mine.png",
    "figures/latent_space.svg",
    "evaluation/table.csv",
)


def write(folder: Path, *names: str, text: str = "mine") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in folder.rglob("*") if p.is_file()}


def test_a_remark_before_the_claim_does_not_make_it_somebodys_folder(tmp_path):
    """Libraries log when they are imported, and the log's file appears with its first line."""
    _, config = composed(*TINY_RUN)
    log = logging.FileHandler(tmp_path / "train.log", delay=True)
    logging.getLogger().addHandler(log)
    try:
        logging.getLogger("library").error("counts cores")
        assert (tmp_path / "train.log").exists()
        with claimed(tmp_path, config):
            pass
    finally:
        logging.getLogger().removeHandler(log)
        log.close()
    assert (tmp_path / "config.yaml").exists()


def test_only_what_a_run_wrote_is_deleted(tmp_path):
    write(tmp_path, *OURS, text='{"protocol": {}}')
    write(tmp_path, *THEIRS)
    clear(tmp_path)
    assert tree(tmp_path) == dict.fromkeys(THEIRS, "mine")


def test_folders_that_held_a_runs_own_files_alone_go_with_them(tmp_path):
    write(tmp_path, *OURS, text='{"protocol": {}}')
    clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_results_of_other_weights_are_forgotten_and_a_users_notes_are_not(tmp_path):
    write(tmp_path, "linear_eval.json", "linear_eval_untrained.json", text='{"protocol": {}}')
    write(tmp_path, *THEIRS)
    forget_judgements(tmp_path)
    assert tree(tmp_path).keys() == {"linear_eval_untrained.json", *THEIRS}


def test_the_list_knows_every_protocol_and_every_figure():
    assert set(PROTOCOLS) == {path.stem for path in (CONFIGS / "protocol").glob("*.yaml")}
    assert set(FIGURES) == set(OmegaConf.load(CONFIGS / "visualize.yaml").figures)


@pytest.mark.parametrize("resume", ["auto", "never"])
@pytest.mark.parametrize(
    "names", [("features/a.npy",), ("config.yaml",), ("train.log",), ("metrics.json", "checkpoints/last.ckpt")]
)
def test_a_folder_that_holds_files_and_is_no_runs_is_refused_untouched(names, resume, tmp_path):
    write(tmp_path, *names)
    with (
        pytest.raises(InputError, match=r"holds files and is no run's directory .*output_root="),
        claimed(tmp_path, composed(f"resume={resume}")[1]),
    ):
        pass
    assert tree(tmp_path) == dict.fromkeys(names, "mine")


@pytest.mark.parametrize(
    "names", [(), (".lock",), (".lock", "train.log"), (".lock", "config.yaml.7.part"), (".lock.owner", "train.log")]
)
def test_what_a_run_has_that_was_killed_at_its_start_is_a_runs(names, tmp_path, monkeypatch):
    monkeypatch.setattr("simclr.system.locks.SILENCE", -1)
    write(tmp_path, *names)
    with claimed(tmp_path, composed()[1]):
        assert (tmp_path / "config.yaml").exists()
        assert not (tmp_path / "config.yaml.7.part").exists()
    with claimed(tmp_path, composed()[1]):
        pass


def test_a_signal_before_the_lock_leaves_a_log_and_a_run_that_can_be_begun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir, config = composed()
    write(run_dir, "train.log")
    with claimed(run_dir, config):
        assert (run_dir / "config.yaml").exists()


def test_what_killed_writers_left_goes_and_other_files_stay(tmp_path):
    with claimed(tmp_path, composed()[1]):
        pass
    unfinished = ("checkpoints/last.ckpt.41.part", "metrics.json.7.part", "backbone.safetensors.part")
    write(tmp_path, *unfinished, *THEIRS)
    with claimed(tmp_path, composed()[1]):
        assert tree(tmp_path).keys() == {".lock", "config.yaml", *THEIRS}


def test_a_run_that_is_refused_leaves_an_empty_folder_empty_and_others_as_they_were(tmp_path):
    def refuse() -> None:
        with claimed(tmp_path, composed()[1]):
            handler = logging.FileHandler(tmp_path / "train.log")
            logging.getLogger().addHandler(handler)
            logging.getLogger().warning("begun")
            raise InputError("no")

    with pytest.raises(InputError):
        refuse()
    assert not list(tmp_path.iterdir())
    with claimed(tmp_path, composed()[1]):
        pass
    before = tree(tmp_path)
    with pytest.raises(InputError, match="another seed"), claimed(tmp_path, composed("seed=1")[1]):
        pass
    assert tree(tmp_path) == before


def test_a_lock_that_cannot_be_taken_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(InputError, match=f"cannot write into {tmp_path} .*output_root="),
        claimed(tmp_path, composed()[1]),
    ):
        pass


@pytest.mark.slow
def test_the_working_directory_with_files_of_ones_own_is_refused_and_nothing_is_left(run, tmp_path):
    write(tmp_path, "figures/mine.png", "checkpoints/last.ckpt", "configs/train.yaml", "linear_eval.json")
    before = tree(tmp_path)
    done = run("train.py", *TINY_RUN, "resume=never", "hydra.run.dir=.", check=False)
    assert done.returncode == 1
    assert f"error: {tmp_path} holds files and is no run's directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("epochs=0",), "epochs=0 is not usable"),
        (("data=image_folder", "data.root=absent"), "absent"),
        pytest.param(
            ("-m", "data=image_folder", "data.root=absent", "seed=1,2"),
            "2 of the sweep's runs failed",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_refused_command_leaves_no_folder(arguments, said, run, tmp_path):
    done = run("train.py", *arguments, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
