use crate::Pipeline;
use crate::cpu::Kernel;

/// A Rust function.
#[derive(Debug)]
pub(super) struct HostPipeline(pub(super) Kernel);

impl Pipeline for HostPipeline {
    fn label(&self) -> &str {
        &self.0.label
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
