"""The commands: Hydra and argparse stop here."""
