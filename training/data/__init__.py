"""Data of the course models: pinned sources (`fetch`) and one module per data set with its fixed split."""
