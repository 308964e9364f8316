"""Images: where they come from, the store they are kept in, and the batches of two views that training reads."""
