"""The algorithms of convolution: their choice, and for each its workspaces, loops and inner kernels."""
