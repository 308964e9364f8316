"""Pictures of what a run has learned: `python -m simclr.visualize`."""
