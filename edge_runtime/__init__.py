"""What an app bundles: numpy, cryptography, an HTTP client, and a TFLite interpreter behind a seam. Nothing else."""
