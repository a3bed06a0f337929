"""Who is measured: transformers and Pointsman, on the CPU and on a GPU, each in a process of its own."""
