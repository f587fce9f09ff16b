//! The model behind the traits of the driver.

use super::ModelConfig;
use super::execute;
use super::order::Touch;
use super::record;
use super::state::{Event, Fence, KernelInfo, Queue, State, Storage, World};
use crate::cpu::{Allocation, Kernel};
use crate::metal::api::{Access, Api, Commands, Encoder, Fault, Handler};
use crate::sync::{Arc, Mutex, Rank, thread};
use crate::{ByteRange, HalError, PipelineDesc};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// The device. Its drop ends the queues' threads.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) world: Arc<World>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Model {
    pub(super) fn new(config: &ModelConfig) -> Self {
        Self { world: World::new(config), threads: Mutex::new(Rank::DRIVER, Vec::new()) }
    }

    fn object(&self, kind: &'static str, add: impl FnOnce(&mut State, u64)) -> Object {
        let id = self.world.change(|state| {
            let id = state.id();
            add(state, id);
            id
        });
        Object { world: Arc::clone(&self.world), kind, id }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.world.change(|state| state.shutdown = true);
        let threads = std::mem::take(self.threads.get_mut());
        for thread in threads {
            // The last handler may be what closes the device.
            if thread.thread().id() != thread::current().id() {
                // A panic of the thread has been printed; there is nobody to hand it to.
                let _ = thread.join();
            }
        }
    }
}

/// A handle on an object of the model.
#[derive(Debug)]
pub(super) struct Object {
    world: Arc<World>,
    kind: &'static str,
    pub(super) id: u64,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.world.release(self.kind, self.id);
    }
}

impl Api for Model {
    type Queue = Object;
    type Buffer = Object;
    type BufferRef = u64;
    type Kernel = Object;
    type Event = Object;
    type Fence = Object;
    type Commands = ModelCommands;
    const RUNS_HOST_KERNELS: bool = true;

    fn pool<R>(body: impl FnOnce() -> R) -> R {
        record::inside_pool(body)
    }

    fn queue(&self, _label: &str, most: usize) -> Option<Object> {
        let queue = self.object("a queue", |state, id| {
            state.queues.insert(id, Queue { most, buffers: 0, jobs: VecDeque::new() });
        });
        let thread = execute::start(&self.world, queue.id).ok()?;
        self.threads.lock().push(thread);
        Some(queue)
    }

    fn buffer(&self, bytes: u64) -> Option<Object> {
        let storage = Arc::new(Storage(Allocation::new(bytes, &self.world.budget).ok()?));
        Some(self.object("a buffer", |state, id| {
            state.buffers.insert(id, storage);
        }))
    }

    fn contents(&self, buffer: &Object) -> NonNull<u8> {
        let start = self.world.state.lock().buffers.get(&buffer.id).map(|storage| storage.0.start());
        // The handle is alive, so its bytes are.
        start.unwrap_or(NonNull::dangling())
    }

    fn refer(buffer: &Object) -> u64 {
        buffer.id
    }

    fn kernel(&self, desc: &PipelineDesc) -> Result<Object, String> {
        let kernel = Kernel::new(desc, "Metal model").map_err(|error| match error {
            HalError::Compile { reason, .. } => reason,
            other => other.to_string(),
        })?;
        let info = KernelInfo { kernel, bindings: desc.bindings, param_bytes: desc.param_bytes };
        Ok(self.object("a kernel", |state, id| {
            state.kernels.insert(id, info);
        }))
    }

    fn event(&self) -> Option<Object> {
        Some(self.object("an event", |state, id| {
            state.events.insert(id, Event::default());
        }))
    }

    fn fence(&self) -> Option<Object> {
        Some(self.object("a fence", |state, id| {
            state.fences.insert(id, Fence::default());
        }))
    }

    fn signaled(&self, event: &Object) -> u64 {
        let mut state = self.world.state.lock();
        let value = state.events.get(&event.id).map_or(0, |event| event.value);
        let covered = state.covered(event.id, value);
        state.order.host_learns(&covered);
        value
    }

    fn set_signaled(&self, event: &Object, value: u64) {
        self.world.change(|state| {
            let current = state.events.get(&event.id).map_or(0, |event| event.value);
            if value <= current {
                state.fault(format!("setSignaledValue: {value}, but the event is at {current}"));
            }
            let clock = state.order.commit();
            state.signal(event.id, value, clock);
            if let Some(event) = state.events.get_mut(&event.id) {
                event.encoded = event.encoded.max(value);
            }
        });
    }

    fn wait_signaled(&self, event: &Object, value: u64, timeout: Duration) -> bool {
        let start = Instant::now();
        let mut state = self.world.state.lock();
        loop {
            if state.events.get(&event.id).is_some_and(|event| event.value >= value) {
                let covered = state.covered(event.id, value);
                state.order.host_learns(&covered);
                return true;
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            (state, _) = self.world.changed.wait_timeout(state, left);
        }
    }

    fn can_capture(&self) -> bool {
        self.world.captures
    }

    fn is_capturing(&self) -> bool {
        self.world.state.lock().capture.is_some()
    }

    fn start_capture(&self, document: &Path) -> Result<(), Fault> {
        self.world.start_capture(document)
    }

    fn stop_capture(&self) {
        self.world.stop_capture();
    }

    fn commands(&self, queue: &Object, label: &str) -> Option<ModelCommands> {
        let id = self.world.commands(queue.id, label);
        Some(ModelCommands { world: Arc::clone(&self.world), id, one_thread: PhantomData })
    }

    fn begin_host_access(&self, buffer: &Object, range: ByteRange, write: bool) -> Result<(), HalError> {
        self.world.change(|state| {
            let race = state.order.begin_host(Touch { memory: buffer.id, range, write });
            match race {
                None => Ok(()),
                Some(text) => {
                    state.fault(text.clone());
                    Err(HalError::Race(text))
                }
            }
        })
    }

    fn end_host_access(&self, buffer: &Object, range: ByteRange, write: bool) -> Result<(), HalError> {
        if self.world.change(|state| state.order.end_host(&Touch { memory: buffer.id, range, write })) {
            return Ok(());
        }
        let ByteRange { start, end } = range;
        let access = if write { "write" } else { "read" };
        Err(HalError::Usage(format!("end_host_access: no {access} of bytes {start}..{end} was begun")))
    }
}

/// A command buffer. Not `Send`, as Metal's are not in `objc2-metal`.
#[derive(Debug)]
pub(super) struct ModelCommands {
    world: Arc<World>,
    id: u64,
    one_thread: PhantomData<*const ()>,
}

impl Drop for ModelCommands {
    fn drop(&mut self) {
        self.world.drop_commands(self.id);
    }
}

impl Commands<Model> for ModelCommands {
    type Encoder<'c> = ModelEncoder<'c>;

    fn wait(&mut self, event: &Object, value: u64) {
        self.world.wait_event(self.id, event.id, value);
    }

    fn signal(&mut self, event: &Object, value: u64) {
        self.world.signal_event(self.id, event.id, value);
    }

    fn encoder(&mut self) -> Option<ModelEncoder<'_>> {
        let id = self.world.encoder(self.id)?;
        Some(ModelEncoder { commands: self, id, ended: false })
    }

    fn on_completed(&mut self, handler: Handler) {
        self.world.on_completed(self.id, handler);
    }

    fn commit(self) {
        self.world.commit(self.id);
    }
}

/// A compute encoder.
#[derive(Debug)]
pub(super) struct ModelEncoder<'c> {
    commands: &'c mut ModelCommands,
    id: u64,
    ended: bool,
}

impl ModelEncoder<'_> {
    fn world(&self) -> (&World, u64) {
        (&self.commands.world, self.commands.id)
    }
}

impl Drop for ModelEncoder<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let (world, commands) = self.world();
            world.end(commands, self.id);
        }
    }
}

impl Encoder<Model> for ModelEncoder<'_> {
    fn wait_fence(&mut self, fence: &Object) {
        let (world, commands) = self.world();
        world.wait_fence(commands, self.id, fence.id);
    }

    fn update_fence(&mut self, fence: &Object) {
        let (world, commands) = self.world();
        world.update_fence(commands, self.id, fence.id);
    }

    fn kernel(&mut self, kernel: &Object) {
        let (world, commands) = self.world();
        world.set_kernel(commands, self.id, kernel.id);
    }

    fn buffer(&mut self, index: u32, buffer: u64, offset: u64, access: Access) {
        let (world, commands) = self.world();
        world.set_buffer(commands, self.id, index, (buffer, offset, access));
    }

    fn bytes(&mut self, index: u32, bytes: &[u8]) {
        let (world, commands) = self.world();
        world.set_bytes(commands, self.id, index, bytes);
    }

    fn threadgroup_memory(&mut self, index: u32, bytes: u32) {
        let (world, commands) = self.world();
        world.set_threadgroup_memory(commands, self.id, index, bytes);
    }

    fn barrier(&mut self) {
        let (world, commands) = self.world();
        world.barrier(commands, self.id);
    }

    fn dispatch(&mut self, groups: [u32; 3], threads: [u32; 3]) {
        let (world, commands) = self.world();
        world.dispatch(commands, self.id, groups, threads);
    }

    fn end(mut self) {
        let (world, commands) = self.world();
        world.end(commands, self.id);
        self.ended = true;
    }
}
