"""The figures: what they show is what other libraries, and the training itself, find."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from torchvision.transforms.v2 import functional as tv

from simclr.augment.augmentation import Augmentation
from simclr.data.shapes import Shapes
from simclr.data.words import display_names
from simclr.errors import InputError
from simclr.figures import latent_space, neighbours, pairs
from simclr.figures.figure import shortened
from simclr.figures.stages import stages
from simclr.report.palette import BLUE, MAX_SYMBOLS, VERMILION, symbol
from simclr.runs.build import build
from simclr.runs.checkpoint import Loaded, epoch_weights, last_checkpoint
from simclr.runs.compose import compose_config
from simclr.training.datamodule import PretrainingData
from tests.conftest import TINY_RUN


def blobs(spread: float, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """100 features of 5 classes, around centres on the unit sphere."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), 20)
    centres = np.eye(16)[:5]
    return torch.tensor(centres[labels] + spread * random.standard_normal((100, 16))), labels


def lay_out(features: torch.Tensor, start: np.ndarray | None = None) -> np.ndarray:
    return latent_space.layout(features, start, perplexity=10, seed=0, progress=lambda steps: None)


def test_the_map_separates_what_is_separate_and_nothing_else():
    (apart, labels), (mixed, _) = blobs(0.05), blobs(5.0)
    assert silhouette_score(lay_out(apart), labels) > 0.7
    assert silhouette_score(lay_out(mixed), labels) < 0.1


def test_the_same_seed_gives_the_same_map_and_lengths_do_not_matter():
    features, _ = blobs(0.3)
    lengths = 2.0 ** torch.arange(100)[:, None].double()
    assert np.array_equal(lay_out(features), lay_out(lengths * features))


def test_a_map_keeps_the_arrangement_that_it_starts_from():
    features, labels = blobs(0.05)
    first = lay_out(features)

    def centres(places: np.ndarray) -> np.ndarray:
        middle = np.stack([places[labels == label].mean(axis=0) for label in range(5)])
        return middle / np.linalg.norm(middle)

    def likeness(one: np.ndarray, other: np.ndarray) -> float:
        return float((centres(one) * centres(other)).sum())

    again, mirrored = lay_out(features, first), lay_out(features, first * [-1, 1])
    assert likeness(first, again) > 0.9
    assert likeness(first * [-1, 1], mirrored) > 0.9
    assert likeness(first, mirrored) < 0.9


@pytest.mark.parametrize("count", [10, 40])
def test_features_that_are_all_one_still_have_a_map(count):
    assert np.isfinite(lay_out(torch.ones(count, 8))).all()


def test_classes_are_spread_over_the_list_or_named():
    classes = [f"n{label:03d}" for label in range(200)]
    assert latent_space.choose_classes(5, classes, classes) == [0, 50, 100, 149, 199]
    assert latent_space.choose_classes(10, classes[:3], classes[:3]) == [0, 1, 2]
    names = ["fish", *classes[1:]]
    assert latent_space.choose_classes(["n002", "fish", "n002"], classes, names) == [2, 0]
    assert latent_space.choose_classes("fish", classes, names) == [0]
    assert latent_space.choose_classes("Cafe\u0301", ["Bar", "Caf\u00e9"], ["Bar", "Caf\u00e9"]) == [1]
    with pytest.raises(InputError, match="no class is called fisch; did you mean fish"):
        latent_space.choose_classes(["fisch"], classes, names)
    for wrong in (0, MAX_SYMBOLS + 1, True, None, classes[:15], []):
        with pytest.raises(InputError, match=r"latent_space\.classes"):
            latent_space.choose_classes(wrong, classes, classes)


def test_the_chosen_classes_come_first_into_the_map():
    labels = np.arange(1000) % 20
    points = latent_space.choose_points(labels, [3, 7], 250, seed=0)
    assert len(set(points)) == 250
    assert np.isin(labels[points], [3, 7]).sum() == 100
    assert np.isin(labels[latent_space.choose_points(labels, [3, 7], 40, seed=0)], [3, 7]).all()
    with pytest.raises(InputError, match="needs 10 validation images, and there are 9"):
        latent_space.choose_points(labels[:9], [3], 250, seed=0)


def test_every_legend_entry_is_drawn_like_the_points_of_its_class():
    random = np.random.default_rng(0)
    labels = random.integers(0, 20, 400)
    names = [f"_class ${label}" for label in range(20)]
    chosen = [4, 19, 0, 7, 8, 9, 10, 11, 12, 13]
    panels = [latent_space.Panel(f"epoch {i}", random.normal(size=(400, 2)), 10.0 * i) for i in range(5)]
    figure = latent_space.draw("a run", panels, labels, chosen, names, "a note")
    (legend,) = figure.legends

    def look(line):
        return to_hex(line.get_color()), line.get_marker(), line.get_fillstyle()

    entries = {text.get_text(): look(line) for text, line in zip(legend.texts, legend.legend_handles, strict=True)}
    assert list(entries) == [*(names[label] for label in chosen), "other classes"]
    assert len(set(entries.values())) == 11
    assert len(figure.axes) == 5
    for axes, panel in zip(figure.axes, panels, strict=True):
        assert axes.get_title() == f"{panel.title}: {panel.accuracy:.1f} %"
        drawn = {look(line): line.get_xydata() for line in axes.lines}
        centred = panel.layout - panel.layout.mean(axis=0)
        for label in chosen:
            np.testing.assert_allclose(drawn[entries[names[label]]], centred[labels == label])
        assert len(drawn[entries["other classes"]]) == (~np.isin(labels, chosen)).sum()
        assert all(axes.viewLim.contains(x, y) for x, y in centred)
    assert len({tuple(symbol(index).values()) for index in range(MAX_SYMBOLS)}) == MAX_SYMBOLS


@pytest.mark.parametrize("count", [1, 10, 99])
def test_neighbours_equal_scikit_learn(count):
    random = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 8, generator=random) * 10 for n in (60, 7))
    oracle = NearestNeighbors(n_neighbors=min(count, 60), metric="cosine").fit(bank.numpy())
    distances, places = oracle.kneighbors(queries.numpy())
    similarities, found = neighbours.nearest(queries, bank, count)
    assert np.array_equal(found.numpy(), places)
    np.testing.assert_allclose(similarities.numpy(), 1 - distances, atol=1e-5)


def test_queries_are_of_as_many_classes_as_there_are():
    labels = np.array([0] * 900 + [1] * 60 + [2] * 40)
    picked = neighbours.choose_queries(labels, 1000, 7, seed=1)
    assert sorted(np.bincount(labels[picked])) == [2, 2, 3]
    assert len(set(picked)) == 7
    assert not np.array_equal(picked, neighbours.choose_queries(labels, 1000, 7, seed=2))
    assert len(neighbours.choose_queries(None, 5, 7, seed=0)) == 5


def test_frames_and_signs_say_whether_the_class_is_the_same():
    random = np.random.default_rng(0)
    labels = np.array([[0, 1, 0], [1, 1, 2]])
    rows = [
        neighbours.Row(
            random.integers(0, 256, (8, 8, 3), dtype=np.uint8),
            label,
            random.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8),
            labels[label],
            np.array([0.9, 0.8, 0.7], np.float32),
        )
        for label in (0, 1)
    ]
    figure = neighbours.draw("a run", "a note", rows, ["cat", "dog", "cow"])
    frames = [to_hex(axes.spines["left"].get_edgecolor()).upper() for axes in figure.axes]
    assert frames[1:4] == [BLUE, VERMILION, BLUE]
    assert frames[5:8] == [BLUE, BLUE, VERMILION]
    words = [axes.get_xlabel() for axes in figure.axes]
    assert words[0] == words[4].replace("dog", "cat") == "cat\n2 of 3"
    assert words[1:4] == ["cat\n0.900 ✓", "dog\n0.800 ✗", "cat\n0.700 ✓"]
    for axes, pixels in zip(figure.axes[5:8], rows[1].neighbours, strict=True):
        assert np.array_equal(axes.images[0].get_array(), pixels)


def augmentation_of(*overrides: str) -> Augmentation:
    return build(compose_config(*TINY_RUN, *overrides).augmentation)


def test_the_pairs_are_those_of_the_first_training_step():
    augmentation, source = augmentation_of("augmentation.solarize_p=0.5"), Shapes(64, 20, 16, 0)
    shown = pairs.first_batch(source.load(), augmentation, 16, 3, 40, count=5)
    data = PretrainingData(source, augmentation, 16, 3, 40)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(shown.images, batch.images[:5])
    for drawn, trained in zip(shown.views, data.on_after_batch_transfer(batch, 0).images, strict=True):
        torch.testing.assert_close(drawn, trained[:5], atol=1e-6, rtol=0)


def test_normalised_views_are_drawn_as_a_person_sees_them_and_described_in_their_order():
    normalised = ("augmentation.mean=[0.5,0.5,0.5]", "augmentation.std=[0.2,0.2,0.2]")
    order = ("augmentation.color_first=true", "augmentation.interpolation=bicubic")
    plain, augmentation = augmentation_of(*order), augmentation_of(*order, *normalised)
    source = Shapes(64, 20, 16, 0).load()
    seen, shown = (pairs.first_batch(source, views, 16, 0, None, count=4) for views in (plain, augmentation))
    for view, same in zip(shown.views, seen.views, strict=True):
        assert torch.equal(view, same)
    assert pairs.describe(augmentation.views[0]) == (
        "solarise at 128 p 0.2; jitter (0.8, 0.8, 0.8, 0.2) p 0.8; grayscale p 0.2; crop of 8 to 100 % of the area, "
        "bicubic; flip p 0.5; blur 7 px, sigma 0.1 to 2; normalised (not drawn)"
    )
    draws = shown.draws[0]._replace(**{name: torch.ones(4, dtype=torch.bool) for name in ("flip", "jitter", "blur")})
    words = pairs.operations(draws, 0, augmentation.views[0], 256).replace("\N{NO-BREAK SPACE}", " ")
    assert words.index("jitter") < words.index("crop") < words.index("flip") < words.index("blur")


def test_the_crop_in_the_image_is_the_crop_of_the_view():
    only_crop = [f"augmentation.{name}=0" for name in ("flip_p", "solarize_p", "jitter_p", "grayscale_p")]
    augmentation = augmentation_of(*only_crop, "augmentation.blur_kernel=1")
    shown = pairs.first_batch(Shapes(64, 20, 16, 0).load(), augmentation, 16, 0, None, count=4)
    figure = pairs.draw("a run", shown, augmentation.views)
    for place in range(4):
        image, *views = figure.axes[3 * place : 3 * place + 3]
        pixels = torch.from_numpy(np.array(image.images[0].get_array())).permute(2, 0, 1)
        boxes = image.patches[1::2]  # below each there is a white one
        for box, view in zip(boxes, views, strict=True):
            left, top = (round(corner + 0.5) for corner in box.get_xy())
            crop = tv.resized_crop(pixels, top, left, int(box.get_height()), int(box.get_width()), [16, 16])
            drawn = torch.from_numpy(np.array(view.images[0].get_array())).permute(2, 0, 1)
            torch.testing.assert_close(drawn, crop / 255, atol=1.5 / 255, rtol=0)
            share = 100 * box.get_height() * box.get_width() / 256
            assert view.get_xlabel().replace("\N{NO-BREAK SPACE}", " ") == f"crop {share:.0f} %"


def planted(folder: Path, last: dict, *epochs: int) -> Loaded:
    for epoch in epochs:
        epoch_weights(folder, epoch).parent.mkdir(parents=True, exist_ok=True)
        epoch_weights(folder, epoch).touch()
    return Loaded(last_checkpoint(folder), {"global_step": 1234, **last})


def progress(processed: int, started: int) -> dict:
    return {"loops": {"fit_loop": {"epoch_progress": {"current": {"processed": processed, "started": started}}}}}


def test_panels_are_spread_over_the_run(tmp_path):
    last = planted(tmp_path, progress(50, 50), 10, 20, 30, 40, 50)
    (tmp_path / "checkpoints" / "epoch-abc.ckpt").touch()

    def titles(last: Loaded, count: int) -> list[str]:
        return [stage.title for stage in stages(last, count)]

    assert titles(last, 2) == ["untrained", "epoch 50"]
    assert titles(last, 4) == ["untrained", "epoch 20", "epoch 30", "epoch 50"]
    assert titles(last, 12) == ["untrained", "epoch 10", "epoch 20", "epoch 30", "epoch 40", "epoch 50"]
    assert stages(last, 3)[1].path in (epoch_weights(tmp_path, 20), epoch_weights(tmp_path, 30))
    assert titles(last._replace(content=progress(10, 11)), 5) == ["untrained", "epoch 10", "within epoch 11"]
    assert titles(last._replace(content={"epoch": 30}), 3) == ["untrained", "epoch 10", "epoch 30"]
    assert titles(planted(tmp_path, {}), 5) == ["untrained", "step 1,234"]


def test_words_say_what_labels_mean(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("n1\tgoldfish, Carassius auratus\nn2\tcrane\nn3\tcrane\nn9\tcow\nno tab\n")
    assert display_names(["n1", "n2", "n3", "n4"], path) == ["goldfish", "crane (n2)", "crane (n3)", "n4"]
    assert display_names(["n1"], None) == ["n1"]
    assert display_names([], path) == []
    assert display_names(["n1", "n4"], place=tmp_path) == ["goldfish", "n4"]  # images' own folder, which has words
    assert display_names(["n1"], path, place=tmp_path / "elsewhere") == ["goldfish"]
    assert display_names(["n1"], place=tmp_path / "elsewhere") == ["n1"]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(path, "tiny/words.txt")
    assert display_names(["n1", "cat"], place=tmp_path / "images.zip") == ["goldfish", "cat"]
    with pytest.raises(InputError, match="no line for any of the 1 classes, such as cat"):
        display_names(["cat"], path)
    with pytest.raises(InputError, match="cannot be read"):
        display_names(["cat"], tmp_path)
    assert shortened("a  very\nlong name of a class", 11) == "a ver…class"
