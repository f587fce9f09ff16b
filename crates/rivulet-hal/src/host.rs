//! The CPU's own memory as a device.
