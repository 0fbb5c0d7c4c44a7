"""kqo: a query optimizer for convolutional networks."""
