"""Adapters to other frameworks: one module for each, with an extra of the same name."""
