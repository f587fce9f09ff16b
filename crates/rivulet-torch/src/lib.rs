//! The bridge from PyTorch's `mps` device to the Rivulet runtime.
