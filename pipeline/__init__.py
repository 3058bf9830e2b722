"""Spatial transformer networks on MNIST, as tracked experiments; see README.md."""
