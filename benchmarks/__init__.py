"""Programs that time this project, most of them beside another way to do the same; each says how to run it."""
