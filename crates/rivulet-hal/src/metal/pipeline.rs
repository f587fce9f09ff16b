use super::api::{Api, limits};
use super::shared::Shared;
use crate::sync::Arc;
use crate::{HalError, Pipeline, PipelineDesc, PipelineSource};

/// A compute pipeline: buffers are the bindings in order, then the parameters, then the lengths of the bindings in
/// bytes, as naga's MSL has them.
#[derive(Debug)]
pub(super) struct MetalPipeline<A: Api> {
    shared: Arc<Shared<A>>,
    label: String,
    pub(super) kernel: A::Kernel,
    pub(super) bindings: u32,
    pub(super) param_bytes: u32,
    pub(super) threads: [u32; 3],
    /// Bytes of each threadgroup argument.
    pub(super) threadgroup: Vec<u32>,
}

impl<A: Api> MetalPipeline<A> {
    pub(super) fn new(shared: &Arc<Shared<A>>, desc: &PipelineDesc) -> Result<Self, HalError> {
        let compiled = Compiled::new(&shared.api, desc)?;
        let Compiled { kernel, threadgroup } = compiled;
        Ok(Self {
            shared: Arc::clone(shared),
            label: desc.label.clone(),
            kernel,
            bindings: desc.bindings,
            param_bytes: desc.param_bytes,
            threads: desc.workgroup,
            threadgroup,
        })
    }

    pub(super) fn is_of(&self, shared: &Arc<Shared<A>>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }
}

/// A kernel within Metal's limits.
pub(super) struct Compiled<A: Api> {
    pub(super) kernel: A::Kernel,
    pub(super) threadgroup: Vec<u32>,
}

impl<A: Api> Compiled<A> {
    pub(super) fn new(api: &A, desc: &PipelineDesc) -> Result<Self, HalError> {
        let fail = |reason: String| Err(HalError::Compile { label: desc.label.clone(), reason });
        // Parameters and lengths take a buffer each.
        let most = limits::BUFFERS - 2;
        if desc.bindings > most {
            return fail(format!("{} bindings; up to {most} are allowed", desc.bindings));
        }
        if !desc.param_bytes.is_multiple_of(4) || desc.param_bytes > limits::INLINE_BYTES {
            let most = limits::INLINE_BYTES;
            return fail(format!(
                "{} bytes of parameters; multiples of 4 up to {most} are allowed",
                desc.param_bytes
            ));
        }
        let threads = desc.workgroup.iter().map(|&side| u64::from(side)).product::<u64>();
        if threads == 0 || threads > u64::from(limits::THREADS) {
            return fail(format!(
                "{:?} threads a group; 1 to {} are allowed",
                desc.workgroup,
                limits::THREADS
            ));
        }
        let threadgroup = match &desc.source {
            PipelineSource::Msl { threadgroup, .. } => threadgroup.clone(),
            _ => Vec::new(),
        };
        let padded = |bytes: u32| u64::from(bytes.next_multiple_of(limits::THREADGROUP_ALIGNMENT));
        let shared_bytes: u64 = threadgroup.iter().map(|&bytes| padded(bytes)).sum();
        if shared_bytes > u64::from(limits::THREADGROUP_BYTES) {
            let most = limits::THREADGROUP_BYTES;
            return fail(format!("{shared_bytes} bytes of threadgroup memory; up to {most} are allowed"));
        }
        match A::pool(|| api.kernel(desc)) {
            Ok(kernel) => Ok(Self { kernel, threadgroup }),
            Err(reason) => fail(reason),
        }
    }
}

impl<A: Api> Pipeline for MetalPipeline<A> {
    fn label(&self) -> &str {
        &self.label
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
