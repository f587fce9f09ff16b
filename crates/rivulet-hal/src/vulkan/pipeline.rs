use super::shared::Shared;
use crate::sync::Arc;
use crate::{HalError, Pipeline, PipelineDesc, PipelineSource};
use ash::vk;

/// A compute pipeline whose operands are pushed with each dispatch.
#[derive(Debug)]
pub(super) struct VulkanPipeline {
    shared: Arc<Shared>,
    label: String,
    pub(super) pipeline: vk::Pipeline,
    pub(super) layout: vk::PipelineLayout,
    set_layout: vk::DescriptorSetLayout,
    pub(super) bindings: u32,
    pub(super) param_bytes: u32,
}

impl VulkanPipeline {
    pub(super) fn new(shared: &Arc<Shared>, desc: &PipelineDesc) -> Result<Self, HalError> {
        let fail = |reason: String| HalError::Compile { label: desc.label.clone(), reason };
        let PipelineSource::SpirV(words) = &desc.source else {
            return Err(fail("a Vulkan device takes SPIR-V".to_owned()));
        };
        if !desc.param_bytes.is_multiple_of(4) || desc.param_bytes > shared.limits.push_constants {
            let most = shared.limits.push_constants;
            return Err(fail(format!(
                "{} bytes of parameters; multiples of 4 up to {most} are allowed",
                desc.param_bytes
            )));
        }
        // Filled step by step: what was made before a failure is destroyed with it.
        let mut made = Self {
            shared: Arc::clone(shared),
            label: desc.label.clone(),
            pipeline: vk::Pipeline::null(),
            layout: vk::PipelineLayout::null(),
            set_layout: vk::DescriptorSetLayout::null(),
            bindings: desc.bindings,
            param_bytes: desc.param_bytes,
        };
        let device = &shared.device;
        let failed = |error| match shared.error("compiling", error) {
            HalError::Usage(reason) => fail(reason),
            other => other,
        };
        let bindings: Vec<_> = (0..desc.bindings)
            .map(|binding| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default()
            .flags(vk::DescriptorSetLayoutCreateFlags::PUSH_DESCRIPTOR_KHR)
            .bindings(&bindings);
        // SAFETY: the extension is enabled and the bindings outlive the call.
        made.set_layout = unsafe { device.create_descriptor_set_layout(&info, None) }.map_err(failed)?;
        let constants = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(desc.param_bytes)];
        let set_layouts = [made.set_layout];
        let info = vk::PipelineLayoutCreateInfo::default()
            .set_layouts(&set_layouts)
            .push_constant_ranges(if desc.param_bytes == 0 { &[] } else { &constants });
        // SAFETY: the set layout is alive, the range within the device's limit.
        made.layout = unsafe { device.create_pipeline_layout(&info, None) }.map_err(failed)?;
        let info = vk::ShaderModuleCreateInfo::default().code(words);
        // SAFETY: the words are SPIR-V that naga has validated; the runtime passes nothing else.
        let module = unsafe { device.create_shader_module(&info, None) }.map_err(failed)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main");
        let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(made.layout);
        // SAFETY: module and layout are alive; the cache may be used by several threads at once.
        let result = unsafe { device.create_compute_pipelines(shared.cache, &[info], None) };
        // SAFETY: a pipeline does not need its module once it is made.
        unsafe { device.destroy_shader_module(module, None) };
        made.pipeline = match result {
            Ok(pipelines) => pipelines[0],
            Err((_, error)) => return Err(failed(error)),
        };
        Ok(made)
    }

    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }
}

impl Drop for VulkanPipeline {
    fn drop(&mut self) {
        let device = &self.shared.device;
        // SAFETY: command buffers keep the pipelines they use alive; destroying a null handle does nothing.
        unsafe {
            device.destroy_pipeline(self.pipeline, None);
            device.destroy_pipeline_layout(self.layout, None);
            device.destroy_descriptor_set_layout(self.set_layout, None);
        }
    }
}

impl Pipeline for VulkanPipeline {
    fn label(&self) -> &str {
        &self.label
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
