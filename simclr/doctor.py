"""Say whether a run would work here, and how long it would take: `python -m simclr.doctor`."""

from simclr.commands.doctor import main

if __name__ == "__main__":
    main()
