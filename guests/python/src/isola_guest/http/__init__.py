"""The implementation of `sandbox.http`."""
