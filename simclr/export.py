"""Take an encoder home: `python -m simclr.export`."""

from simclr.commands.export import main

if __name__ == "__main__":
    main()
