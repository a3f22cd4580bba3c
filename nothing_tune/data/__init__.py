"""Rows from wherever they are to the rows that are trained on: files, sources, conversion, splits, duplicates, mixtures, cards.

Light: it imports zstandard, pyarrow, datasets and datasketch where they are used, and never torch.
"""
