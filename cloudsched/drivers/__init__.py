"""How is the world touched? One module per kind of place that nodes come from."""
