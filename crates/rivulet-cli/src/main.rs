//! Command line of the runtime without PyTorch.
fn main() {}
