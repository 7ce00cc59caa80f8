"""Pages and plots of studies and runs."""
