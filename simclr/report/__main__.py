"""Write the report of a sweep: `python -m simclr.report`."""

from simclr.commands.report import main

if __name__ == "__main__":
    main()
