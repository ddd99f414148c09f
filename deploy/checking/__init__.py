"""What `deploy/check.py` is made of."""
