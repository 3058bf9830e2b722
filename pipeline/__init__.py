"""Spatial transformer networks on MNIST, as tracked experiments; see README.md."""

import atexit
import gc

# torch and MLflow make millions of objects that stay. Looking for garbage among them takes three
# seconds of a command, while it imports them and when it ends: look rarely, and not at the end.
gc.set_threshold(50_000)
atexit.register(gc.freeze)
