"""Models of scaling fitted to measured times."""
