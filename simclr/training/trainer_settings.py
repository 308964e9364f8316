"""Which arguments of Lightning's Trainer a run may be given, and from where: from its configuration alone."""

from __future__ import annotations

import os
from typing import Any

from simclr.errors import InputError

# Arguments that would end a run before its schedule does, feed it other batches, or be replaced by what train.py gives
# the Trainer; and what does in their place what they are for.
INSTEAD = {
    **dict.fromkeys(("max_epochs", "min_epochs", "max_steps", "min_steps"), "use epochs="),
    **dict.fromkeys(("limit_train_batches", "overfit_batches", "fast_dev_run"), "use limit_images= and epochs="),
    "max_time": "use a signal, as `timeout 2h python train.py ...` sends: the run is saved, and its command goes on",
    "accumulate_grad_batches": "use batch_size= with method.micro_batch=",
    "precision": "use precision=",
    "num_nodes": (
        "start this on every machine: torchrun --nnodes=N --nproc-per-node=GPUS --rdzv-backend=c10d "
        "--rdzv-endpoint=HOST:29500 train.py trainer=ddp"
    ),
    "callbacks": "use +callbacks.NAME=",
    "logger": "use logger=",
    "default_root_dir": "use output_root=",
    "enable_progress_bar": "use callbacks.progress=null or callbacks=none",
    **dict.fromkeys(
        ("plugins", "enable_checkpointing", "barebones"), "leave it out: the run takes care of that itself"
    ),
}
FROM_ENVIRONMENT = "PL_TRAINER_"  # and an argument's name: Lightning then has another default for it


def check_trainer_settings(trainer: dict[str, Any], epochs: int) -> None:
    """Raise InputError for arguments that the run cannot have, or that the environment holds.

    trainer: the configuration's own arguments. epochs: of the run, for which `trainer.max_epochs` stands.
    """
    for name in sorted(os.environ):
        argument = name.removeprefix(FROM_ENVIRONMENT).lower()
        if name.startswith(FROM_ENVIRONMENT):
            instead = INSTEAD.get(argument, f"use {'' if argument in trainer else '+'}trainer.{argument}=")
            raise InputError(
                f"{name}={os.environ[name]} in the environment would change the run, and its configuration would not "
                f"say so; unset it, and {instead}"
            )
    given = (
        trainer if trainer["max_epochs"] != epochs else {key: trainer[key] for key in trainer if key != "max_epochs"}
    )
    for argument in given:
        if argument in INSTEAD:
            raise InputError(f"trainer.{argument}={given[argument]} is not usable; {INSTEAD[argument]}")
