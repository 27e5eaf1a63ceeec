"""The commands of `edgewise-export`, one family a file. Nothing here loads TensorFlow before it is needed."""
