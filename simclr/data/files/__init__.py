"""Image files as they come: where they are read from, and how they become pixels."""
