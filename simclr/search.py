"""Find images by a sentence or by an image: `python -m simclr.search`."""

from simclr.commands.search import main

if __name__ == "__main__":
    main()
