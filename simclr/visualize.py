"""Draw what a run has learned: `python -m simclr.visualize`."""

from simclr.commands.visualize import main

if __name__ == "__main__":
    main()
