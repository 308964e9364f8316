"""Augmentation: one recipe, its draws, and two engines that apply them."""
