"""What training writes and services read, in one form for both: cards, versions, and how inputs are prepared.

It imports no other package of this project, and needs what the `server` extra brings.
"""
