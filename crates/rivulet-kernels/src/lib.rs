//! Kernel keys and parameter layouts shared by the runtime and the drivers.
