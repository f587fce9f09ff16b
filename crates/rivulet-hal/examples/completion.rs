//! How soon the CPU learns that a tiny kernel is done, by each way that Vulkan has: a timeline semaphore's value, a fence,
//! an event that the commands set, and a word of CPU memory that they write. With the CPU's share of it: what resetting
//! and recording a command buffer and submitting it cost.
//!
//! ```text
//! cargo run --release -p rivulet-hal --example completion -- [part of an adapter's name]
//! ```
//!
//! One line for each queue family and way: microseconds, the median and the 99th percentile of 3000 rounds. The ways take
//! turns round by round, so that all see the same clocks.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use ash::vk;
use std::time::Instant;

const ROUNDS: usize = 3000;
const SOURCE: &str = "@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@compute @workgroup_size(32) fn main(@builtin(local_invocation_index) i: u32) { words[i] += 1u; }";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Polls the value of the semaphore that the submission signals.
    Semaphore,
    /// The same, with commands recorded once and submitted again and again.
    SemaphoreRecorded,
    /// `vkWaitSemaphores` without polling.
    SemaphoreWait,
    /// Polls a fence.
    Fence,
    /// Polls an event that the last command sets; the semaphore is signalled all the same.
    Event,
    /// Polls a word that the last command fills; the semaphore is signalled all the same.
    Word,
    /// The same without a semaphore.
    WordAlone,
    /// Polls a word that `vkCmdUpdateBuffer` writes.
    Update,
}

const WAYS: [Way; 8] = [
    Way::Semaphore,
    Way::SemaphoreRecorded,
    Way::SemaphoreWait,
    Way::Fence,
    Way::Event,
    Way::Word,
    Way::WordAlone,
    Way::Update,
];

fn spirv() -> Outcome<Vec<u32>> {
    let module = naga::front::wgsl::parse_str(SOURCE)?;
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    let info = validator.validate(&module)?;
    Ok(naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None)?)
}

struct Gpu {
    device: ash::Device,
    memory: vk::PhysicalDeviceMemoryProperties,
}

impl Gpu {
    /// A buffer of 4 KiB in memory with these properties, mapped where the CPU sees it.
    fn buffer(&self, wanted: vk::MemoryPropertyFlags) -> Outcome<(vk::Buffer, *mut u32)> {
        let usage = vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::TRANSFER_DST;
        let info = vk::BufferCreateInfo::default().size(4096).usage(usage);
        // SAFETY: the device is alive; the memory's type is one that the buffer allows, and it is bound once.
        unsafe {
            let buffer = self.device.create_buffer(&info, None)?;
            let needs = self.device.get_buffer_memory_requirements(buffer);
            let types = self.memory.memory_types_as_slice();
            let fits = |(index, kind): &(usize, &vk::MemoryType)| {
                needs.memory_type_bits & (1 << index) != 0 && kind.property_flags.contains(wanted)
            };
            let (index, kind) = types.iter().enumerate().find(fits).ok_or("no such memory")?;
            let info =
                vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(index as u32);
            let memory = self.device.allocate_memory(&info, None)?;
            self.device.bind_buffer_memory(buffer, memory, 0)?;
            let mapped = if kind.property_flags.contains(vk::MemoryPropertyFlags::HOST_VISIBLE) {
                self.device.map_memory(memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())?
            } else {
                std::ptr::null_mut()
            };
            Ok((buffer, mapped.cast()))
        }
    }
}

#[derive(Default)]
struct Times {
    record: Vec<f64>,
    submit: Vec<f64>,
    done: Vec<f64>,
}

fn at(times: &mut [f64], part: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * part) as usize]
}

#[allow(clippy::too_many_lines, reason = "one measurement, told in order")]
fn measure(instance: &ash::Instance, physical: vk::PhysicalDevice, family: u32) -> Outcome<()> {
    let priorities = [1.0];
    let queues =
        [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
    let mut timeline = vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
    let extensions = [ash::khr::push_descriptor::NAME.as_ptr()];
    let create = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .push_next(&mut timeline);
    // SAFETY: all through: objects are of this device, alive, and used by this thread alone; the queue is idle between
    // rounds, since each round waits for its work.
    unsafe {
        let device = instance.create_device(physical, &create, None)?;
        let push = ash::khr::push_descriptor::Device::new(instance, &device);
        let memory = instance.get_physical_device_memory_properties(physical);
        let gpu = Gpu { device: device.clone(), memory };
        use vk::MemoryPropertyFlags as Flags;
        let (data, _) = gpu.buffer(Flags::DEVICE_LOCAL)?;
        let (word, seen) = gpu.buffer(Flags::HOST_VISIBLE | Flags::HOST_COHERENT | Flags::HOST_CACHED)?;
        let code = spirv()?;
        let shader = device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&code), None)?;
        let binding = [vk::DescriptorSetLayoutBinding::default()
            .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(1)
            .stage_flags(vk::ShaderStageFlags::COMPUTE)];
        let set = device.create_descriptor_set_layout(
            &vk::DescriptorSetLayoutCreateInfo::default()
                .flags(vk::DescriptorSetLayoutCreateFlags::PUSH_DESCRIPTOR_KHR)
                .bindings(&binding),
            None,
        )?;
        let sets = [set];
        let layout = device
            .create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default().set_layouts(&sets), None)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(shader)
            .name(c"main");
        let pipeline = device
            .create_compute_pipelines(
                vk::PipelineCache::null(),
                &[vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout)],
                None,
            )
            .map_err(|(_, error)| error)?[0];
        let queue = device.get_device_queue(family, 0);
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let semaphore =
            device.create_semaphore(&vk::SemaphoreCreateInfo::default().push_next(&mut kind), None)?;
        let fence = device.create_fence(&vk::FenceCreateInfo::default(), None)?;
        let event = device.create_event(&vk::EventCreateInfo::default(), None)?;
        let make_pool = |flags| {
            device.create_command_pool(
                &vk::CommandPoolCreateInfo::default().flags(flags).queue_family_index(family),
                None,
            )
        };
        let make_buffer = |pool| {
            let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
            device.allocate_command_buffers(&info).map(|buffers| buffers[0])
        };
        let fresh_pool = make_pool(vk::CommandPoolCreateFlags::TRANSIENT)?;
        let fresh = make_buffer(fresh_pool)?;
        let kept = make_buffer(make_pool(vk::CommandPoolCreateFlags::empty())?)?;
        let record = |commands: vk::CommandBuffer, way: Way, value: u32| -> Outcome<()> {
            let once = vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT;
            let usage =
                if way == Way::SemaphoreRecorded { vk::CommandBufferUsageFlags::empty() } else { once };
            device.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default().flags(usage))?;
            device.cmd_bind_pipeline(commands, vk::PipelineBindPoint::COMPUTE, pipeline);
            let info = [vk::DescriptorBufferInfo { buffer: data, offset: 0, range: 4096 }];
            let write = [vk::WriteDescriptorSet::default()
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .buffer_info(&info)];
            push.cmd_push_descriptor_set(commands, vk::PipelineBindPoint::COMPUTE, layout, 0, &write);
            device.cmd_dispatch(commands, 1, 1, 1);
            let written = vk::AccessFlags::SHADER_WRITE;
            let barrier = |to: vk::PipelineStageFlags, reads| {
                let memory = [vk::MemoryBarrier::default().src_access_mask(written).dst_access_mask(reads)];
                device.cmd_pipeline_barrier(
                    commands,
                    vk::PipelineStageFlags::COMPUTE_SHADER,
                    to,
                    vk::DependencyFlags::empty(),
                    &memory,
                    &[],
                    &[],
                );
            };
            let host = (vk::PipelineStageFlags::HOST, vk::AccessFlags::HOST_READ);
            match way {
                Way::Event => {
                    barrier(host.0, host.1);
                    device.cmd_set_event(commands, event, vk::PipelineStageFlags::ALL_COMMANDS);
                }
                Way::Word | Way::WordAlone | Way::Update => {
                    let copies = (vk::PipelineStageFlags::TRANSFER, vk::AccessFlags::TRANSFER_WRITE);
                    barrier(copies.0 | host.0, copies.1 | host.1);
                    if way == Way::Update {
                        device.cmd_update_buffer(commands, word, 0, &value.to_ne_bytes());
                    } else {
                        device.cmd_fill_buffer(commands, word, 0, 4, value);
                    }
                }
                _ => barrier(host.0, host.1),
            }
            device.end_command_buffer(commands)?;
            Ok(())
        };
        record(kept, Way::SemaphoreRecorded, 0)?;
        let mut value = 0_u64;
        let mut times: Vec<Times> = WAYS.iter().map(|_| Times::default()).collect();
        for round in 0..ROUNDS + 100 {
            for (way, times) in WAYS.iter().copied().zip(&mut times) {
                value += 1;
                let mark = value as u32;
                let begun = Instant::now();
                let commands = if way == Way::SemaphoreRecorded {
                    kept
                } else {
                    device.reset_command_pool(fresh_pool, vk::CommandPoolResetFlags::empty())?;
                    record(fresh, way, mark)?;
                    fresh
                };
                let recorded = begun.elapsed();
                let (buffers, semaphores, values) = ([commands], [semaphore], [value]);
                let mut points = vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
                let mut info = vk::SubmitInfo::default().command_buffers(&buffers);
                if way != Way::WordAlone {
                    info = info.signal_semaphores(&semaphores).push_next(&mut points);
                }
                let used = if way == Way::Fence { fence } else { vk::Fence::null() };
                device.queue_submit(queue, &[info], used)?;
                let submitted = begun.elapsed();
                match way {
                    Way::Semaphore | Way::SemaphoreRecorded => {
                        while device.get_semaphore_counter_value(semaphore)? < value {
                            std::hint::spin_loop();
                        }
                    }
                    Way::SemaphoreWait => {
                        let wait = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
                        device.wait_semaphores(&wait, u64::MAX)?;
                    }
                    Way::Fence => {
                        while !device.get_fence_status(fence)? {
                            std::hint::spin_loop();
                        }
                    }
                    Way::Event => {
                        while !device.get_event_status(event)? {
                            std::hint::spin_loop();
                        }
                    }
                    Way::Word | Way::WordAlone | Way::Update => {
                        while seen.read_volatile() != mark {
                            std::hint::spin_loop();
                        }
                    }
                }
                let done = begun.elapsed();
                // What was not waited for ends before the next round begins.
                match way {
                    Way::Fence => device.reset_fences(&[fence])?,
                    Way::Event => device.reset_event(event)?,
                    _ => {}
                }
                device.queue_wait_idle(queue)?;
                if round >= 100 {
                    times.record.push(recorded.as_secs_f64() * 1e6);
                    times.submit.push((submitted - recorded).as_secs_f64() * 1e6);
                    times.done.push(done.as_secs_f64() * 1e6);
                }
            }
        }
        for (way, times) in WAYS.iter().zip(&mut times) {
            println!(
                "  {:<18} record {:>5.1} submit {:>5.1} (p99 {:>5.1})   done {:>6.1} (p99 {:>6.1})",
                format!("{way:?}"),
                at(&mut times.record, 0.5),
                at(&mut times.submit, 0.5),
                at(&mut times.submit, 0.99),
                at(&mut times.done, 0.5),
                at(&mut times.done, 0.99),
            );
        }
        let polls = 100_000;
        let begun = Instant::now();
        for _ in 0..polls {
            std::hint::black_box(device.get_semaphore_counter_value(semaphore)?);
        }
        println!(
            "  asking for the semaphore's value: {:.0} ns",
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(polls)
        );
        device.device_wait_idle()?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let wanted = std::env::args().nth(1).unwrap_or_default().to_lowercase();
    // SAFETY: the loader and what was made with it live until the end of this function.
    unsafe {
        let entry = ash::Entry::load()?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
        let instance =
            entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
        for physical in instance.enumerate_physical_devices()? {
            let properties = instance.get_physical_device_properties(physical);
            let name = properties.device_name_as_c_str()?.to_string_lossy().into_owned();
            if !name.to_lowercase().contains(&wanted) {
                continue;
            }
            let families = instance.get_physical_device_queue_family_properties(physical);
            for (family, kind) in families.iter().enumerate() {
                if kind.queue_flags.contains(vk::QueueFlags::COMPUTE) {
                    println!(
                        "{name}, family {family} of {} queues ({:?})",
                        kind.queue_count, kind.queue_flags
                    );
                    measure(&instance, physical, family as u32)?;
                }
            }
        }
    }
    Ok(())
}
