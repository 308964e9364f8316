"""CLIP from the command line: trained, killed and resumed, judged by its words, and refused where there are none."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from simclr.runs.assemble import reassemble
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint, previous_checkpoint
from tests.conftest import TINY_RUN, Run, image_bytes, only_run, scalars, write_folder

SMALL = ("method=clip", "data.captions=true", "tokenizer.vocabulary=512", "method.text.width=32", "method.text.depth=1")
CLIP = (*TINY_RUN, *SMALL)


def error_of(done) -> str:
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr + done.stdout
    return line


def test_it_is_trained_and_judged_by_its_words(run: Run, tmp_path):
    run("train.py", *CLIP, "evaluate=[zero_shot,retrieval]")
    run_dir = only_run(tmp_path / "outputs")
    found = {
        name: json.loads((run_dir / f"{name}_eval.json").read_text("utf-8")) for name in ("zero_shot", "retrieval")
    }
    zero_shot, retrieval = found.values()
    assert 0 <= zero_shot["top1_low"] <= zero_shot["top1"] <= zero_shot["top1_high"] <= 100
    for direction in ("image_to_text", "text_to_image"):
        recalls = [retrieval[f"{direction}_r{k}"] for k in (1, 5, 10)]
        assert recalls == sorted(recalls)
        assert retrieval[f"{direction}_r1_low"] <= recalls[0] <= retrieval[f"{direction}_r1_high"]
        assert retrieval[f"{direction}_median_rank"] >= 1
    curves = scalars(run_dir)
    for tag in ("train/loss", "train/logit_scale", "val/image_to_text_r1", "val/text_to_image_r1"):
        assert curves[tag]
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    assert "20 validation images and their 60 captions" in metrics["protocol"]["val/text_to_image_r1"]

    done = run("linear_eval.py", f"run={run_dir}", "protocol=zero_shot", "untrained=true")
    assert "untrained" in done.stdout
    assert (run_dir / "zero_shot_eval_untrained.json").exists()
    done = run("linear_eval.py", f"run={run_dir}", "protocol=zero_shot", "layer=head", check=False)
    assert "leave layer= and part= out" in error_of(done)


@pytest.mark.slow
def test_it_goes_on_with_the_words_of_its_checkpoint(run: Run, tmp_path):
    """As though another version of the library had learned others: the checkpoint's are those that its weights mean."""
    run("train.py", *CLIP)
    whole = load_checkpoint(last_checkpoint(only_run(tmp_path / "outputs")))
    middle = previous_checkpoint(only_run(tmp_path / "outputs"))
    content = torch.load(middle, weights_only=True)
    assert 0 < content["global_step"] < whole["global_step"]
    run("train.py", *CLIP, f"resume={middle}", "output_root=resumed")
    resumed = load_checkpoint(last_checkpoint(only_run(tmp_path / "resumed")))
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], tensor), name

    state = content["state_dict"]["text._extra_state"]
    state[500] += 1
    torch.save(content, tmp_path / "tampered.ckpt")
    for command in (
        ("train.py", *CLIP, "resume=tampered.ckpt", "output_root=tampered"),
        ("linear_eval.py", "ckpt=tampered.ckpt", "protocol=zero_shot"),
    ):
        assert "the checkpoint's tokenizer does not have the digest" in error_of(run(*command, check=False))


@pytest.mark.slow
def test_what_has_no_captions_or_no_text_tower_is_refused(run: Run, tmp_path):
    done = run("train.py", *TINY_RUN, "method=clip", check=False)
    assert "the method learns from captions, which these images lack" in error_of(done)
    done = run("train.py", *TINY_RUN, "data.captions=true", "evaluate=[retrieval]", check=False)
    assert "evaluate=retrieval compares images with sentences" in error_of(done)
    run("train.py", *TINY_RUN, "data.captions=true", "epochs=1")
    done = run("linear_eval.py", f"run={only_run(tmp_path / 'outputs')}", "protocol=zero_shot", check=False)
    assert "this run has no text tower" in error_of(done)


@pytest.mark.slow
def test_the_quickstart_names_shapes_that_nobody_labelled(run: Run, tmp_path):
    """Zero-shot accuracy of ten shapes is far above chance, 10 %, after three of the five epochs already."""
    unwatched = [f"callbacks.{name}=null" for name in ("progress", "label_free", "online_knn", "retrieval")]
    run("train.py", "experiment=clip_quickstart", "epochs=3", "evaluate=[zero_shot]", *unwatched)
    found = json.loads((only_run(tmp_path / "outputs") / "zero_shot_eval.json").read_text("utf-8"))
    assert found["top1_low"] > 2 * found["chance_top1"]


@pytest.mark.slow
def test_its_sheet_of_retrievals_is_drawn(run: Run, tmp_path):
    run("train.py", *CLIP, "epochs=1")
    run_dir = only_run(tmp_path / "outputs")
    run("simclr.visualize", f"run={run_dir}", "figures=[retrieval]", "retrieval.queries=2")
    assert (run_dir / "figures" / "retrieval.png").stat().st_size > 10_000


@pytest.mark.slow
def test_captions_on_disk_are_learned_from_judged_and_found_again(run: Run, tmp_path):
    """A run of images with captions and no labels, which knows its table by its contents, wherever it lies."""
    names = [f"{i}.png" for i in range(40)]
    shades = np.random.default_rng(0).integers(0, 255, (40, 24, 24, 3), dtype=np.uint8)
    files = {f"images/{name}": image_bytes(pixels) for name, pixels in zip(names, shades, strict=True)}
    rows = "".join(f"{name},image {i},{'val' if i % 4 == 0 else 'train'}\n" for i, name in enumerate(names))
    files["captions.csv"] = f"image,caption,split\n{rows}".encode()
    root = write_folder(tmp_path / "mine", files)
    small = ("tokenizer.vocabulary=512", "method.text.width=32", "method.text.depth=1", "batch_size=10", "epochs=2")
    own = ("method=clip", "data=image_text", f"data.root={root}", "data.size=16", "precision=32", *small)
    done = run("train.py", *own, "evaluate=[retrieval]")
    assert "30 training images with 30 captions, 10 validation images with 10" in done.stdout
    run_dir = only_run(tmp_path / "outputs")
    assert f"{run_dir.name} protocol=retrieval" in done.stdout
    assert (run_dir / "retrieval_eval.json").exists()
    root.rename(tmp_path / "moved")
    run("linear_eval.py", f"run={run_dir}", "protocol=retrieval", f"data.root={tmp_path / 'moved'}")
    assert "has finished already" in run("train.py", *own[:2], f"data.root={tmp_path / 'moved'}", *own[3:]).stdout


@pytest.mark.slow
def test_others_load_both_towers_and_agree(run: Run, tmp_path):
    """Images and sentences get the same embeddings from open_clip's own model, and from onnxruntime, by files alone."""
    import onnxruntime
    import open_clip
    from tokenizers import Tokenizer

    run("train.py", *CLIP, "epochs=1")
    run_dir = only_run(tmp_path / "outputs")
    done = run("simclr.export", f"run={run_dir}", "format=open_clip", "output=towers")
    assert "open_clip.create_model_and_transforms('local-dir:towers')" in done.stdout
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'towers'}")
    model.eval()
    checkpoint = load_checkpoint(last_checkpoint(run_dir))
    parts = reassemble(checkpoint, ["backbone", "head", "text"])
    for part in parts.values():
        part.eval()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    shown = torch.stack([preprocess(Image.fromarray(image)) for image in pixels])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(shown, images, rtol=0, atol=1e-6)
    tokens = parts["text"].tokens(["a red star", "two blue rings"]).ids
    with torch.no_grad():
        ours = parts["head"](parts["backbone"](images)), parts["text"](tokens)
        theirs = model.encode_image(shown), model.encode_text(tokens)
        assert model.logit_scale.item() == checkpoint["state_dict"]["logit_scale"].item()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    words = Tokenizer.from_file(str(tmp_path / "towers" / "tokenizer.json")).encode("a red star").ids
    assert tokens[0, 1 : 1 + len(words)].tolist() == words

    run("simclr.export", f"run={run_dir}", "format=onnx", "output=onnx")
    sessions = [onnxruntime.InferenceSession(tmp_path / "onnx" / f"{tower}.onnx") for tower in ("image", "text")]
    for one, session, given in zip(ours, sessions, (images, tokens), strict=True):
        found = session.run(["embeddings"], {session.get_inputs()[0].name: given.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found), F.normalize(one, dim=1), rtol=0, atol=1e-5)
    assert (tmp_path / "onnx" / "tokenizer.json").read_bytes() == (tmp_path / "towers" / "tokenizer.json").read_bytes()

    for wrong, said in (
        (("part=target_backbone",), "part=target_backbone is not for both towers"),
        (("format=tensorflow",), "format=tensorflow is not known"),
        ((f"output={run_dir}",), "holds other files"),
    ):
        asked = ("simclr.export", f"run={run_dir}", "format=open_clip", *wrong)
        assert said in error_of(run(*asked, check=False))
