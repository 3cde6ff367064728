"""From a kind's tensors to the normal form. One module per family; `build` puts an adapter together."""
