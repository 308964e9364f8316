"""Judge what a run has learned. `python linear_eval.py --help` shows commands, protocols and keys."""

from simclr.commands.evaluate import main

if __name__ == "__main__":
    main()
