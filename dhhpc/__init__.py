"""dhhpc: from biomedical images to trained models and scaling reports on SLURM/MPI machines."""

__version__ = "0.1.0"
