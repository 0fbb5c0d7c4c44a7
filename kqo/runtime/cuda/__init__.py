"""Running emitted CUDA programs. Nothing here needs CuPy until a device is asked for."""
