"""What code inside a Python sandbox can use of its host."""
