"""What `sandbox.http` is made of."""
