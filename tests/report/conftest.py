import pytest

from simclr.runs.compose import compose_config
from simclr.runs.identity import as_dict


@pytest.fixture(scope="session")
def cells() -> dict[tuple[str, str], dict]:
    """What train.py would write as config.yaml in each cell of the study, by Hydra itself."""
    found = {}
    for augmentation in ("baseline", "modified"):
        for head in ("baseline", "slim"):
            found[augmentation, head] = as_dict(compose_config(f"augmentation={augmentation}", f"head={head}"))
    return found
