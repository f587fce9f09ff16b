use crate::Pipeline;
use crate::cpu::Kernel;

/// A Rust function that a queue's thread calls.
#[derive(Debug)]
pub(super) struct SimPipeline(pub(super) Kernel);

impl Pipeline for SimPipeline {
    fn label(&self) -> &str {
        &self.0.label
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
