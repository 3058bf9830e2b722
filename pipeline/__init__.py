"""Spatial transformer networks on MNIST, as tracked experiments; see README.md."""

import atexit
import gc

# Else every process spends three seconds looking for garbage among what torch and MLflow define,
# where there is none: while it imports them, and again when it ends.
gc.set_threshold(50_000)
atexit.register(gc.freeze)
