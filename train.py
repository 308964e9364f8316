"""Pre-train an encoder without labels. `python train.py --help` shows commands, choices and keys."""

from simclr.commands.train import main

if __name__ == "__main__":
    main()
