import pytest
from hydra import compose, initialize_config_dir

from simclr.runs.compose import CONFIGS
from simclr.runs.identity import run_identity


@pytest.fixture(scope="session")
def cells() -> dict[tuple[str, str], dict]:
    """What train.py would write as config.yaml in each cell of the study, by Hydra itself."""
    found = {}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for augmentation in ("baseline", "modified"):
            for head in ("baseline", "slim"):
                config = compose("train", [f"augmentation={augmentation}", f"head={head}"])
                found[augmentation, head] = run_identity(config)
    return found
