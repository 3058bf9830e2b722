"""The networks.

Tables, which are read without torch, with an entry for each thing that may be chosen:

- `placements`: where the transformer sits: the architectures.
- `transforms`: what the transformer may do to an image; the functions are in `grids.py`.
- `conv_layers`: the convolution layers, and how a user's own layer is named.

What they are built into:

- `layer_sizes`: the layer sizes of the two networks, and the sides of feature maps.
- `layer_class`: loads the class that a convolution layer's entry names, and checks it.
- `layers`: the layers that every network is built from.
- `convolve`: how a convolution and its max-pooling are computed.
- `pooled_product`: a convolution with max-pooling as matrix products.
- `coordconv`: CoordConv. Another layer of this kind is a module of its own.
- `stn`: the modules of a spatial transformer network.
- `build`: puts a network together.
- `portable`: a network as it is registered: raw pixels to probabilities.

Other packages use the tables, `build`, `layer_class`, `layer_sizes`, `portable` and `stn`.
"""
