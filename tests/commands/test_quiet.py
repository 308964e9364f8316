"""What libraries say about themselves, or about the machine, is kept from users."""

import logging
import logging.config
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from simclr.runs.configs import CONFIGS
from tests.conftest import REPOSITORY


@pytest.mark.skipif(sys.platform != "linux", reason="hides the program by which Linux counts cores")
def test_a_machine_whose_cores_cannot_be_counted_is_not_told_so():
    """joblib warns, with a traceback, when scikit-learn asks it, which finds the neighbours for a map."""
    pytest.importorskip("openTSNE")
    code = (
        "import torch\n"
        "from simclr.figures.latent_space import layout\n"
        "layout(torch.rand(40, 64), None, 5, 0, lambda steps: None)\n"
        "print('laid out')"
    )
    without = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=without, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("laid out\n", "")


def test_news_of_fonts_are_kept_out_of_the_log(capsys):
    """matplotlib has some at its first import on a machine."""
    root, fonts = logging.getLogger(), logging.getLogger("matplotlib.font_manager")
    handlers, level, named = root.handlers[:], root.level, logging.getLogger("matplotlib").level
    console = OmegaConf.to_container(OmegaConf.load(CONFIGS / "hydra" / "job_logging" / "console.yaml"))
    assert isinstance(console, dict)
    try:
        logging.config.dictConfig({str(key): value for key, value in console.items()})
        fonts.info("generated new fontManager")
        logging.getLogger("simclr").info("ours")
    finally:
        root.handlers[:], root.level = handlers, level
        logging.getLogger("matplotlib").setLevel(named)
    assert capsys.readouterr().out == "ours\n"
