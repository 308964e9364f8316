"""Judging a frozen encoder: plain tensors in, numbers out."""
