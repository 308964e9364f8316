"""Write the features of any images into one file: `python -m simclr.embed`."""

from simclr.commands.embed import main

if __name__ == "__main__":
    main()
