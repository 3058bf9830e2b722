"""The networks.

- `layers`: the layer constructors that every network is built from.
- `coordconv`: CoordConv.
- `pooled`: max-pooling, and convolutions followed by it, as matrix products where that is faster.
- `stn`: spatial transformer networks: where the transformer sits, what it may do.
- `portable`: a network as it is registered: raw pixels to probabilities.

Other packages use `stn` and `portable`.
"""
