"""Keras models become TFLite graphs that the stock interpreter can train."""
