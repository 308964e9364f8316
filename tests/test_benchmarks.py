"""The benchmarks run, on the smallest of tasks, and give the figures that the docs quote; what they say is free."""

import json

import psutil
import pytest
import torch

from benchmarks.moments import Moments

SMALL = ("data=shapes", "data.train_count=256", "data.val_count=10", "data.size=32", "batch_size=16", "precision=32")


@pytest.mark.slow
def test_throughput_times_programs_in_turns(run, tmp_path):
    done = run("benchmarks.throughput", "--rounds", 2, "--steps", 1, "--json", tmp_path / "figures.json", *SMALL)
    assert "round 2: images/s: this project" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    ours, reference = figures["programs"]["this project"], figures["programs"]["reference"]
    assert len(reference["times_as_fast_is_this_project"]["by_round"]) == 2
    assert all(milliseconds > 0 for milliseconds in ours["stages_ms"].values())
    assert 0 < ours["share_of_peak"] < 1
    assert ours["memory_gb"]["peak"] > ours["memory_gb"]["of it mapped files"] > 0


def test_weights_are_kept_at_their_minutes_and_the_clock_stands_still_meanwhile(tmp_path, monkeypatch):
    clock = [0.0]
    save = torch.save
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def slow_save(*arguments):
        clock[0] += 1000.0
        save(*arguments)

    monkeypatch.setattr(torch, "save", slow_save)
    network = torch.nn.Linear(1, 1, bias=False)
    moments = Moments([3, 1], tmp_path, network)
    assert moments.wait()
    for step in range(1, 7):  # half a minute each
        clock[0] += 30.0
        torch.nn.init.constant_(network.weight, step)
        assert moments.step_done() is (step < 6)
    moments.ended()
    kept = json.loads((tmp_path / "moments.json").read_text())["moments"]
    assert [(moment["minutes"], moment["steps"]) for moment in kept] == [(1.0, 2), (3.0, 6)]
    assert [torch.load(tmp_path / moment["file"])["weight"].item() for moment in kept] == [2.0, 6.0]


def test_a_training_that_ends_before_the_last_moment_is_judged_at_its_end(tmp_path):
    moments = Moments([1e3], tmp_path, torch.nn.Linear(1, 1))
    assert moments.wait()
    assert moments.step_done()
    moments.ended()
    kept = json.loads((tmp_path / "moments.json").read_text())["moments"]
    assert len(kept) == 1
    assert kept[0]["minutes"] < 1
    assert (tmp_path / kept[0]["file"]).is_file()


@pytest.mark.slow
def test_time_to_accuracy_judges_weights_of_moments_and_does_nothing_twice(run, tmp_path):
    small = (*SMALL[:4], "batch_size=16", "data.train_count=128", "epochs=2")
    options = ("--out", tmp_path, "--moments", "0.0001,5", "--only", "study")
    done = run("benchmarks.time_to_accuracy", *options, *small)
    assert done.stdout.count("study: 0.") == 2
    figures = json.loads((tmp_path / "figures.json").read_text())
    moments = figures["programs"]["study"]["moments"]
    assert [moment["steps"] for moment in moments] == [1, 16]  # the second is the end of its two epochs
    assert all(moment["top1_low"] <= moment["top1"] <= moment["top1_high"] for moment in moments)
    assert (tmp_path / "time_to_accuracy.svg").is_file()
    weights = sorted(tmp_path.glob("study/*.pt"))
    written = [path.stat().st_mtime_ns for path in weights]
    run("benchmarks.time_to_accuracy", *options, *small)
    assert [path.stat().st_mtime_ns for path in weights] == written


@pytest.mark.slow
def test_scale_varies_one_key(run, tmp_path):
    run("benchmarks.scale", "batch_size=8,16", "--rounds", 1, "--json", tmp_path / "figures.json", *SMALL[:4])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["key"] == "batch_size"
    assert all(value["ms_an_image"] > 0 for value in figures["values"].values())


@pytest.mark.slow
def test_a_program_that_fails_is_heard(run):
    done = run("benchmarks.scale", "batch_size=8,16", "data.root=/nowhere.zip", check=False)
    assert done.returncode == 1
    assert "data.root=/nowhere.zip does not exist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_small_ones_print_their_tables(run, tmp_path):
    figures = tmp_path / "figures.json"
    run("benchmarks.augment", "--images", 8, "--seconds", 0.01, "--json", figures, *SMALL)
    engines = json.loads(figures.read_text())["milliseconds_a_view"]["engines"]
    assert {"batched", "torchvision transforms.v2 on tensors"} <= engines.keys()
    run("benchmarks.contrastive", "--batches", "8,16", "--json", tmp_path / "contrastive.json")
    assert json.loads((tmp_path / "contrastive.json").read_text())["batches"].keys() == {"8", "16"}
    probe = run("benchmarks.probe", "--images", 400, "--features", 16, "--classes", 4)
    assert "400 × 16, 4 classes: the whole protocol" in probe.stdout
    table = run("benchmarks.convolutions", "--views", 8, "--seconds", 0.01).stdout
    assert "3×3 /1  2×2×512 to 2×2×512" in table


@pytest.mark.slow
def test_killed_runs_end_as_if_never_killed(run, tmp_path):
    done = run("benchmarks.kill_test", "--kills", 2, "--seed", 3, "--json", tmp_path / "figures.json")
    assert "2 of 2 ended as if never killed." in done.stdout
    assert len(json.loads((tmp_path / "figures.json").read_text())["kills"]) == 2


@pytest.mark.slow
def test_a_check_of_the_gpu_that_fails_keeps_no_other_from_running(run, tmp_path):
    impossible = (*SMALL[:4], "batch_size=300")  # of 256 images: train.py refuses it, and no other check minds
    options = ("--out", tmp_path, "--only", "training,tests,agreement")
    done = run("benchmarks.gpu_check", *options, *impossible, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: training failed"
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert found["training"]["failed"] == "it ended with status 1"
    if not torch.cuda.is_available():
        assert found["tests"]["left_out"] == "it needs a GPU"
    agreement = found["agreement"]
    assert agreement["views_largest_difference"] < 1e-3
    assert agreement["info_nce_relative_error"]["float32"] < 1e-6
    assert agreement["step_against_float64_on_the_cpu"]["float32"]["cosine"] > 0.99


@pytest.mark.slow
def test_checks_of_the_gpu_end_with_their_time_and_what_they_started(run, tmp_path):
    options = ("--out", tmp_path, "--only", "training,agreement", "--minutes", 0.3)
    done = run("benchmarks.gpu_check", *options, *SMALL[:4], "batch_size=16", "epochs=5000", check=False)
    assert done.returncode == 1
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert found["training"]["failed"] == "it was not over after 18 s, when the time was"
    assert found["agreement"]["failed"] == "there was no time left"
    assert not [process.pid for process in psutil.process_iter() if "epochs=5000" in command_line(process)]


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []
