"""HTTP: routers translate and do nothing else."""
