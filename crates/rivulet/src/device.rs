//! A device: the entry to everything.

use crate::config::{self, AdapterChoice, EnvSource};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::hazard::Tracking;
use crate::ids::{Access, Point, StreamId};
use crate::memory::{Block, DropFn, MemoryError, MemoryStats};
#[cfg(not(loom))]
use crate::plan;
use crate::pool;
use crate::report::Report;
use crate::stream::host::InOp;
use crate::stream::record::{DeviceOp, Extra, FlushPolicy};
use crate::stream::{HostAccess, Stream};
use rivulet_hal::sync::atomic::{AtomicUsize, Ordering};
use rivulet_hal::sync::{self, Arc, Mutex, Rank};
use rivulet_hal::{AdapterClass, AdapterInfo, HalError, Recorder};
use std::sync::OnceLock;

/// How a device is opened.
#[derive(Clone)]
pub struct DeviceOptions {
    /// Where settings are read.
    pub env: Arc<dyn EnvSource>,
    /// Whether operands are tracked; [`Tracking::Off`] is for tests that show what tracking prevents.
    pub tracking: Tracking,
    /// When streams submit by themselves.
    pub flush: FlushPolicy,
}

impl Default for DeviceOptions {
    /// The installed settings, tracking on.
    fn default() -> Self {
        Self { env: config::env(), tracking: Tracking::On, flush: FlushPolicy::default() }
    }
}

impl std::fmt::Debug for DeviceOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceOptions")
            .field("tracking", &self.tracking)
            .field("flush", &self.flush)
            .finish_non_exhaustive()
    }
}

/// An open device. Cheap to clone; all methods may be called from any thread.
///
/// ```
/// use rivulet::{Access, Device};
///
/// let device = Device::host();
/// let block = device.allocate(4096)?;
/// {
///     // A CPU access is an operation of the calling thread's stream.
///     let _access = device.host_access("example", &[(&block, Access::Write)])?;
/// }
/// device.synchronize()?;
/// device.free(block);
/// # Ok::<(), rivulet::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Device {
    engine: Arc<Engine>,
}

/// Devices that [`Device::reset_global`] can make in one process.
const GLOBALS: usize = 64;

/// The current one is the last; earlier ones were lost. They stay, because handles of them do.
static GLOBAL: [OnceLock<Device>; GLOBALS] = [const { OnceLock::new() }; GLOBALS];

sync::global! {
    static CURRENT: AtomicUsize = AtomicUsize::new(0);
    static OPENING: Mutex<()> = Mutex::new(Rank::POOL, ());
}

/// The place of the adapter that `auto` means: a card, else a GPU beside the CPU, else the host's. A simulated GPU is used
/// only where it is asked for by name.
fn find_best(adapters: &[AdapterInfo]) -> usize {
    let first = |class| adapters.iter().position(|adapter| adapter.class == class);
    first(AdapterClass::Discrete).or_else(|| first(AdapterClass::Integrated)).unwrap_or(0)
}

/// The adapters of the machine and the place of the one that the settings choose; `None` is the host's, and no driver
/// was loaded. `auto` loads them only where there is a GPU's device file.
fn choose_adapter(env: &dyn EnvSource) -> Result<Option<(Vec<AdapterInfo>, usize)>> {
    match config::adapter(env)? {
        // Loading the drivers takes longer than all else at start.
        AdapterChoice::Auto if rivulet_hal::may_have_gpu() => {
            let adapters = rivulet_hal::adapters();
            let best = find_best(&adapters);
            Ok(Some((adapters, best)))
        }
        AdapterChoice::Auto | AdapterChoice::Host => Ok(None),
        AdapterChoice::Named(name) => {
            let adapters = rivulet_hal::adapters();
            let place = find_adapter(&adapters, &name)?;
            Ok(Some((adapters, place)))
        }
    }
}

/// The place of the adapter with this number, or of the first whose name contains `wanted`, case ignored.
fn find_adapter(adapters: &[AdapterInfo], wanted: &str) -> Result<usize> {
    let number = wanted.parse::<usize>().ok().filter(|&number| number < adapters.len());
    let part = wanted.to_lowercase();
    let named = || adapters.iter().position(|adapter| adapter.name.to_lowercase().contains(&part));
    number.or_else(named).ok_or_else(|| {
        let names: Vec<_> = adapters
            .iter()
            .enumerate()
            .map(|(number, adapter)| format!("{number} ({})", adapter.name))
            .collect();
        let names = names.join(", ");
        let allowed = format!("auto, host, and the adapters of this machine by number or name: {names}");
        Error::Setting(config::SettingError { variable: config::ADAPTER, value: wanted.to_owned(), allowed })
    })
}

impl Device {
    /// Opens the adapter that the settings choose, the host adapter where this machine has no other.
    ///
    /// # Errors
    /// A bad setting, or no adapter.
    pub fn open(options: DeviceOptions) -> Result<Self> {
        // The host's adapter is the first of the list.
        match choose_adapter(&*options.env)?.and_then(|(_, place)| place.checked_sub(1)) {
            None => Self::with(rivulet_hal::host::open(), options),
            Some(index) => Self::open_gpu(index, options),
        }
    }

    /// Opens the adapter at `index` of those after the host's: Metal's come first.
    #[cfg(all(target_os = "macos", not(loom)))]
    fn open_gpu(index: usize, options: DeviceOptions) -> Result<Self> {
        use rivulet_hal::metal;
        let first = metal::adapters().len();
        if let Some(index) = index.checked_sub(first) {
            return Self::open_vulkan(index, options);
        }
        let settings = metal::Options {
            queues: config::wanted_queues(&*options.env)?,
            encoders: config::metal_encoders(&*options.env)?,
        };
        let hal = metal::open(index, &settings);
        Self::with(hal.map_err(|error| Error::NoAdapter(error.to_string()))?, options)
    }

    #[cfg(any(not(target_os = "macos"), loom))]
    fn open_gpu(index: usize, options: DeviceOptions) -> Result<Self> {
        Self::open_vulkan(index, options)
    }

    #[cfg(loom)]
    fn open_vulkan(index: usize, _: DeviceOptions) -> Result<Self> {
        Err(Error::NoAdapter(format!("{index}: models run on the simulated adapter")))
    }

    #[cfg(not(loom))]
    fn open_vulkan(index: usize, options: DeviceOptions) -> Result<Self> {
        let settings = rivulet_hal::vulkan::Options {
            validation: config::validation(&*options.env)?,
            queues: config::wanted_queues(&*options.env)?,
            mirror: config::mirror(&*options.env)?,
            cache: config::cache_dir(&*options.env),
        };
        let hal = rivulet_hal::vulkan::open(index, settings);
        Self::with(hal.map_err(|error| Error::NoAdapter(error.to_string()))?, options)
    }

    /// The adapter that [`Device::open`] would open. Loads no driver unless the settings name an adapter, or leave the
    /// choice and the machine has a GPU.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn planned(env: &dyn EnvSource) -> Result<AdapterInfo> {
        let chosen = choose_adapter(env)?;
        Ok(chosen.map_or_else(rivulet_hal::host::info, |(mut adapters, place)| adapters.swap_remove(place)))
    }

    /// Opens the CPU's memory as a device, with default options. Starts no thread.
    pub fn host() -> Self {
        let DeviceOptions { env, tracking, flush } = DeviceOptions::default();
        let hal = rivulet_hal::host::open();
        let queues = hal.info().queues;
        Self { engine: Engine::new(hal, queues, env, tracking, flush) }
    }

    /// Runs on a device that the caller has opened.
    ///
    /// # Errors
    /// A bad setting; [`Error::NoAdapter`] where the device has no queue.
    pub fn with(hal: Arc<dyn rivulet_hal::Device>, options: DeviceOptions) -> Result<Self> {
        let DeviceOptions { env, tracking, flush } = options;
        let queues = config::queues(&*env, hal.info().queues)?;
        if queues == 0 {
            return Err(Error::NoAdapter(format!("{} has no queue", hal.info().name)));
        }
        Ok(Self { engine: Engine::new(hal, queues, env, tracking, flush) })
    }

    /// The process's device; the first call opens it. A child that was forked after that gets it too, and an error from
    /// whatever it does with it.
    ///
    /// # Errors
    /// A bad setting, or no adapter.
    #[inline]
    pub fn global() -> Result<&'static Self> {
        match Self::global_if_open() {
            Some(device) => Ok(device),
            None => Self::open_global(),
        }
    }

    /// The process's device where it is open. Never opens one.
    #[inline]
    pub fn global_if_open() -> Option<&'static Self> {
        GLOBAL.get(CURRENT.load(Ordering::Acquire))?.get()
    }

    #[cold]
    fn open_global() -> Result<&'static Self> {
        // Settings are read before the lock: their source may take the interpreter's lock.
        let device = Self::open(DeviceOptions::default())?;
        let _opening = OPENING.lock();
        let place = GLOBAL.get(CURRENT.load(Ordering::Acquire));
        place.map(|place| place.get_or_init(|| device)).ok_or_else(Self::too_many_resets)
    }

    /// True where blocks of an earlier device may be about.
    pub(crate) fn was_reset() -> bool {
        CURRENT.load(Ordering::Relaxed) > 0
    }

    fn too_many_resets() -> Error {
        Error::NoAdapter(format!("the device was lost {GLOBALS} times in this process; start a new one"))
    }

    /// Opens the process's device anew after it was lost. Memory, streams and events of the lost one go on failing.
    /// Nothing where the device is not lost.
    ///
    /// # Errors
    /// As [`Device::global`].
    pub fn reset_global() -> Result<()> {
        let Some(lost) = Self::global_if_open().filter(|device| device.engine.is_lost()) else {
            return Ok(());
        };
        let opening = OPENING.lock();
        let current = CURRENT.load(Ordering::Acquire);
        let is_current =
            GLOBAL.get(current).and_then(OnceLock::get).is_some_and(|now| std::ptr::eq(now, lost));
        if is_current {
            if current + 1 >= GLOBALS {
                return Err(Self::too_many_resets());
            }
            CURRENT.store(current + 1, Ordering::Release);
        }
        drop(opening);
        Self::global().map(|_| ())
    }

    /// What the device is.
    pub fn info(&self) -> &AdapterInfo {
        &self.engine.info
    }

    /// The driver's side of it, for compiling kernels.
    pub fn hal(&self) -> &Arc<dyn rivulet_hal::Device> {
        &self.engine.hal
    }

    #[cfg(not(loom))]
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Hardware queues in use.
    pub fn queues(&self) -> usize {
        self.engine.queues
    }

    /// Whether the device can be used from this process now.
    ///
    /// # Errors
    /// [`Error::Forked`], [`Error::ShutDown`], [`Error::DeviceLost`].
    #[inline]
    pub fn check(&self) -> Result<()> {
        self.engine.check()
    }

    /// True in a process forked after the device was opened.
    pub fn is_forked(&self) -> bool {
        self.engine.is_forked()
    }

    /// The process is ending: later calls fail with [`Error::ShutDown`], and threads that wait stop.
    pub fn shut_down(&self) {
        self.engine.shut_down();
    }

    /// To be called before the process ends: afterwards no thread of the runtime is inside the driver, whose own end may
    /// be near, and compiled kernels are kept for the next process. The device can still be used. Waits for some
    /// milliseconds at most; nothing in a forked child.
    pub fn prepare_exit(&self) {
        self.engine.prepare_exit();
    }

    // --- threads and streams -------------------------------------------------------------------------------

    /// Makes the default stream the calling thread's, instead of the thread's that runs `main`. For programs whose
    /// main thread is another one, before its first op.
    pub fn adopt_main_thread(&self) {
        self.engine.adopt_main_thread();
        if let Some(local) = pool::thread::local(&self.engine) {
            local.adopt_main(&self.engine);
        }
    }

    fn handle(&self, id: StreamId) -> Result<Stream> {
        self.engine.stream(id)?;
        Ok(Stream::new(Arc::clone(&self.engine), id))
    }

    /// The calling thread's stream. Takes a slot of the pool where the thread has none, and may wait for one.
    ///
    /// # Errors
    /// The pool's errors, a bad setting, or the device's failure.
    pub fn current_stream(&self) -> Result<Stream> {
        self.handle(self.current_stream_id()?)
    }

    /// As [`Device::current_stream`].
    ///
    /// # Errors
    /// As [`Device::current_stream`].
    pub fn current_stream_id(&self) -> Result<StreamId> {
        self.engine.check()?;
        let id = match pool::thread::local(&self.engine) {
            Some(local) => local.current(&self.engine)?,
            None => self.engine.table()?.reserve(),
        };
        self.engine.stream(id)?;
        Ok(id)
    }

    /// The calling thread's stream where it has one; takes no slot.
    pub fn peek_stream(&self) -> Option<StreamId> {
        pool::thread::existing(&self.engine)?.peek(&self.engine)
    }

    /// Sets the calling thread's explicit stream, or clears it with `None` (also with the id of the thread's own slot);
    /// what [`Device::peek_stream`] said before. Takes no slot.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], or the device's failure.
    pub fn exchange_stream(&self, stream: Option<StreamId>) -> Result<Option<StreamId>> {
        self.engine.check()?;
        if let Some(id) = stream {
            self.engine.table()?.check(id)?;
        }
        // A thread without locals is ending; it runs nothing more that an explicit stream would matter to.
        Ok(pool::thread::local(&self.engine).and_then(|local| local.exchange(&self.engine, stream)))
    }

    /// A further stream; [`crate::stream::EXPLICIT_STREAMS`] a priority, then the same ones again in turn. Priority 0,
    /// or -1 for streams whose submissions go first.
    ///
    /// # Errors
    /// [`Error::NoSuchPriority`], a bad setting, or the device's failure.
    pub fn new_stream(&self, priority: i32) -> Result<Stream> {
        self.engine.check()?;
        let id = self.engine.table()?.explicit(priority)?.id;
        self.handle(id)
    }

    /// The handle of an existing stream.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], or the device's failure.
    pub fn stream(&self, id: StreamId) -> Result<Stream> {
        self.engine.check()?;
        self.engine.table()?.check(id)?;
        self.handle(id)
    }

    /// The main thread's stream.
    ///
    /// # Errors
    /// A bad setting, or the device's failure.
    pub fn default_stream(&self) -> Result<Stream> {
        self.stream(StreamId::DEFAULT)
    }

    /// Gives the calling thread's slot back; its next op takes one again. Calls no driver and does not wait. Inside an
    /// op the slot goes back when the op ends. Nothing where the thread has no slot, and in a forked child.
    pub fn release_current_thread(&self) {
        if self.engine.is_forked() {
            return;
        }
        if let Some(local) = pool::thread::existing(&self.engine) {
            local.release(&self.engine);
        }
    }

    /// Waits for what every stream was given before this call; work that is recorded meanwhile is not waited for.
    ///
    /// # Errors
    /// The first failure of a stream, after all were waited for; the device's failure, or a signal.
    pub fn synchronize(&self) -> Result<()> {
        self.engine.check()?;
        let Some(table) = self.engine.table_if_made() else { return Ok(()) };
        let cursors: Vec<_> = table
            .all()
            .filter(|stream| !stream.is_complete())
            .map(|stream| {
                let handle = Stream::new(Arc::clone(&self.engine), stream.id);
                let cursor = handle.cursor_from_here();
                (handle, cursor)
            })
            .collect();
        let mut result = Ok(());
        for (stream, _) in &cursors {
            stream.shared().flush(&self.engine);
        }
        for (stream, cursor) in cursors {
            match stream.wait_cursor(cursor) {
                Err(error) if error.concerns_all() => return Err(error),
                other => result = result.and(other),
            }
        }
        result
    }

    /// Worker threads that are inside an op at this moment; an estimate for sharing out the CPU's cores.
    pub fn busy_threads(&self) -> usize {
        self.engine.table_if_made().map_or(0, |table| table.slots.busy())
    }

    /// Kernels compiled so far, by key.
    #[cfg(not(loom))]
    pub fn pipelines(&self) -> &crate::pipelines::Pipelines<rivulet_kernels::Kernel> {
        &self.engine.pipelines
    }

    /// What an error of the driver means to the user; a lost device is remembered.
    #[cfg(not(loom))]
    pub(crate) fn failed(&self, op: &str, error: rivulet_hal::HalError) -> Error {
        self.engine.failed(op, error)
    }

    // --- ops -----------------------------------------------------------------------------------------------

    /// Records an op on the calling thread's stream; see [`Stream::record`].
    ///
    /// # Errors
    /// As [`Stream::record`] and [`Device::current_stream`].
    pub fn record(
        &self,
        op: &DeviceOp<'_>,
        commands: impl FnOnce(&mut dyn Recorder) -> Result<(), HalError>,
    ) -> Result<Point> {
        let in_op = InOp::enter(&self.engine, None)?;
        #[cfg(not(loom))]
        if plan::noting::is_open() {
            return self.engine.record_noted(in_op.stream(), op, None, &[], commands);
        }
        in_op.stream().record(&self.engine, op, &Extra::default(), commands)
    }

    /// As [`Device::record`], of dispatches of a kernel with these operands.
    ///
    /// # Errors
    /// As [`Device::record`].
    #[cfg(not(loom))]
    pub(crate) fn record_kernel(
        &self,
        op: &DeviceOp<'_>,
        kernel: &rivulet_kernels::Kernel,
        operands: &[(&crate::ops::View<'_>, Access)],
        commands: impl FnOnce(&mut dyn Recorder) -> Result<(), HalError>,
    ) -> Result<Point> {
        let in_op = InOp::enter(&self.engine, None)?;
        if plan::noting::is_open() {
            return self.engine.record_noted(in_op.stream(), op, Some(kernel), operands, commands);
        }
        in_op.stream().record(&self.engine, op, &Extra::default(), commands)
    }

    /// Begins a CPU access as an operation of the calling thread's stream: waits until its turn on the stream has
    /// come, until no other thread uses an operand in a conflicting way, and until the device's conflicting work is
    /// complete. The operands are the caller's until the answer is dropped. Inside another access of the same thread
    /// the outer one's turn covers it. A block may be named twice.
    ///
    /// # Errors
    /// The pool's errors, the stream's or the device's failure, or a signal. Nothing is held then.
    #[inline]
    pub fn host_access<'d>(
        &'d self,
        label: &'static str,
        operands: &[(&'d Block, Access)],
    ) -> Result<HostAccess<'d>> {
        HostAccess::begin(&self.engine, None, label, operands)
    }

    /// Copies bytes of a block from its byte `offset` on into `target`, as an operation of the calling thread's stream.
    /// Cheaper than a [`Device::host_access`] where the CPU cannot see the device's memory: only these bytes are moved,
    /// and the CPU keeps no copy.
    ///
    /// # Errors
    /// [`Error::Memory`] for bytes outside the block, and as [`Device::host_access`].
    pub fn read(&self, label: &'static str, block: &Block, offset: u64, target: &mut [u8]) -> Result<()> {
        crate::stream::host::read(&self.engine, label, block, offset, target)
    }

    /// Copies `source` into a block from its byte `offset` on, as an operation of the calling thread's stream; see
    /// [`Device::read`]. The source is the caller's again at once; the device may still be busy with it.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn write(&self, label: &'static str, block: &Block, offset: u64, source: &[u8]) -> Result<()> {
        crate::stream::host::write(&self.engine, label, block, offset, source)
    }

    // --- memory --------------------------------------------------------------------------------------------

    /// A block of at least `bytes` (> 0) for the calling thread's stream. Where memory is short, caches are emptied
    /// and freed memory that the device still uses is waited for.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], and as [`Device::current_stream`].
    pub fn allocate(&self, bytes: u64) -> Result<Arc<Block>> {
        let stream = self.current_stream_id()?;
        // Each round frees what the one before waited for; other threads may take it, but not for ever.
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            match self.engine.allocator.allocate(stream, bytes, &*self.engine) {
                Ok(block) => {
                    #[cfg(not(loom))]
                    if plan::noting::is_open() {
                        plan::noting::made(&self.engine, &block);
                    }
                    return Ok(block);
                }
                Err(MemoryError::NeedsIdle { points }) => {
                    for point in points {
                        if let Some(other) = self.engine.stream_if_made(point.stream) {
                            other.wait_device(&self.engine, point.value)?;
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::OutOfMemory {
            text: format!("mps out of memory: {bytes} bytes did not come free while other threads allocate"),
        })
    }

    /// As [`Device::allocate`], a block whose bytes the CPU may write at once, without a [`Device::host_access`], until
    /// anybody else gets to know of it: for a CPU kernel that computes into fresh memory. Device work of the block's
    /// earlier life is waited for where it matters.
    ///
    /// # Errors
    /// As [`Device::allocate`], and the failure of a stream that has to be waited for.
    pub fn allocate_for_host(&self, bytes: u64) -> Result<Arc<Block>> {
        let block = self.allocate(bytes)?;
        if let Err(error) = crate::stream::host::settle(&self.engine, &block) {
            self.free(block);
            return Err(error);
        }
        #[cfg(not(loom))]
        if plan::noting::is_open() {
            plan::noting::host(&self.engine, "allocate for the CPU", &[(&block, Access::Write)]);
        }
        Ok(block)
    }

    /// Makes a block of host memory that somebody else allocated; see [`crate::memory::Allocator::adopt`].
    ///
    /// # Errors
    /// [`Error::Memory`] where the adapter cannot use it in place, and as [`Device::current_stream`].
    pub fn adopt(&self, address: usize, bytes: u64, drop: DropFn) -> Result<Arc<Block>> {
        let stream = self.current_stream_id()?;
        Ok(self.engine.allocator.adopt(address, bytes, stream, drop)?)
    }

    /// Gives a block back, to the device that it came from where that was lost and this one opened in its place. Any
    /// thread, also inside an op; waits for nothing. Nothing in a forked child and after [`Device::shut_down`], where the
    /// process's end frees everything.
    #[inline]
    pub fn free(&self, block: Arc<Block>) {
        if self.engine.is_forked() || self.engine.is_shut_down() {
            // Dropping a handle frees nothing, and the count is not a lock.
            return;
        }
        #[cfg(not(loom))]
        if plan::noting::is_open() {
            plan::noting::freed(&self.engine, &block);
        }
        if self.engine.allocator.owns(&block) {
            return self.engine.allocator.free(block);
        }
        // It was allocated before the device was lost and opened anew.
        let mut earlier = GLOBAL.iter().map_while(OnceLock::get);
        if let Some(owner) = earlier.find(|device| device.engine.allocator.owns(&block)) {
            owner.engine.allocator.free(block);
        }
    }

    /// Whether `address` is memory of the process's device or of one that it had before; it works after shutdown
    /// and in a forked child. True where a child cannot tell, so that it leaves its parent's memory alone.
    pub fn any_holds(address: usize) -> bool {
        let holds =
            |device: &Self| device.engine.allocator.holds(address, device.engine.is_forked()).unwrap_or(true);
        GLOBAL.iter().map_while(OnceLock::get).any(holds)
    }

    /// The live block whose bytes include `address`.
    pub fn find(&self, address: usize) -> Option<Arc<Block>> {
        if self.engine.is_forked() { None } else { self.engine.allocator.find(address) }
    }

    /// The allocator, for what has no shorter way.
    pub fn allocator(&self) -> &crate::memory::Allocator {
        &self.engine.allocator
    }

    /// The allocator's books.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn memory_stats(&self) -> Result<MemoryStats> {
        if self.engine.is_forked() { Err(Error::Forked) } else { Ok(self.engine.allocator.stats()) }
    }

    /// Gives unused memory back to the driver; see [`crate::memory::Allocator::empty_cache`]. Takes no slot.
    ///
    /// # Errors
    /// The device's failure.
    pub fn empty_cache(&self) -> Result<()> {
        self.engine.check()?;
        self.engine.allocator.empty_cache(&*self.engine);
        Ok(())
    }

    /// What the device and its users are doing. Takes no slot and waits for nothing.
    pub fn report(&self) -> Report {
        Report::of(&self.engine)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::{Device, find_best};
    use crate::error::Error;
    use rivulet_hal::{AdapterClass, AdapterInfo, HalError};

    #[test]
    fn a_card_is_better_than_a_gpu_beside_the_cpu_and_a_simulated_one_is_never_chosen() {
        let best = |classes: &[AdapterClass]| {
            let adapter = |&class| AdapterInfo { class, ..rivulet_hal::host::info() };
            find_best(&classes.iter().map(adapter).collect::<Vec<_>>())
        };
        use AdapterClass::{Cpu, Discrete, Integrated, Virtual};
        assert_eq!(best(&[Cpu, Integrated, Discrete, Cpu]), 2);
        assert_eq!(best(&[Cpu, Integrated, Cpu]), 1);
        assert_eq!(best(&[Cpu, Virtual, Cpu]), 0);
        assert_eq!(best(&[Cpu]), 0);
    }

    #[test]
    fn a_lost_global_device_is_opened_anew_and_the_old_one_goes_on_failing() {
        let lost = Device::global().unwrap();
        let block = lost.allocate(64).unwrap();
        assert!(Device::any_holds(block.address()) && !Device::any_holds(lost as *const Device as usize));
        lost.engine.note_failure("matmul", &HalError::DeviceLost { reason: "unplugged".to_owned() });
        let again = Device::global().unwrap();
        assert!(matches!(again.allocate(64), Err(Error::DeviceLost { op, .. }) if op == "matmul"));
        Device::reset_global().unwrap();
        let fresh = Device::global().unwrap();
        let other = fresh.allocate(64).unwrap();
        drop(fresh.host_access("op", &[(&other, crate::Access::Write)]).unwrap());
        assert!(matches!(lost.synchronize(), Err(Error::DeviceLost { .. })));
        let refused = fresh.host_access("op", &[(&block, crate::Access::Read)]).unwrap_err();
        assert!(matches!(&refused, Error::DeviceLost { op, .. } if op == "op"), "{refused}");
        fresh.free(block);
        fresh.free(other);
        let freed = |device: &Device| device.memory_stats().unwrap().free_count;
        assert_eq!((freed(lost), freed(fresh)), (1, 1), "each block goes back to where it came from");
    }
}
