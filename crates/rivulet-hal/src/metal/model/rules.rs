//! Each rule is broken here once, by calls that the driver's types do not let it make, and found. The names of the crashes
//! are those that PyTorch's one-stream `mps` and other programs with threads are reported to die of.

use super::ModelConfig;
use super::api::Model;
use super::record::inside_pool;
use super::state::World;
use crate::metal::api::{Access, Api, limits};
use crate::sync::Arc;
use crate::{PipelineDesc, PipelineSource};
use std::path::PathBuf;
use std::time::Duration;

type Object = <Model as Api>::Buffer;

struct Scene {
    model: Model,
    queue: Object,
}

/// For documents; removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rivulet-capture-rules-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All bytes of a buffer of 64.
const WHOLE: Access = Access { skip: 0, bytes: 64, write: true };

impl Scene {
    fn new() -> Self {
        let model = Model::new(&ModelConfig { delay: Duration::ZERO, ..ModelConfig::default() });
        let queue = model.queue("queue", 8).unwrap();
        Self { model, queue }
    }

    fn world(&self) -> &World {
        &self.model.world
    }

    fn commands(&self, label: &str) -> u64 {
        inside_pool(|| self.world().commands(self.queue.id, label))
    }

    fn encoder(&self, commands: u64) -> u64 {
        inside_pool(|| self.world().encoder(commands)).unwrap()
    }

    fn kernel(&self) -> Object {
        let desc = PipelineDesc {
            label: "touch".to_owned(),
            source: PipelineSource::Host(|operands, _, _| operands[0].fill(1)),
            bindings: 1,
            param_bytes: 0,
            workgroup: [1; 3],
        };
        self.model.kernel(&desc).unwrap()
    }

    /// Encodes all that a dispatch on `buffer` needs.
    fn dispatch(&self, commands: u64, encoder: u64, kernel: &Object, buffer: &Object) {
        let world = self.world();
        world.set_kernel(commands, encoder, kernel.id);
        world.set_buffer(commands, encoder, 0, (buffer.id, 0, WHOLE));
        world.set_bytes(commands, encoder, 2, &64_u32.to_ne_bytes());
        world.dispatch(commands, encoder, [1; 3], [1; 3]);
    }

    /// A committed command buffer with one pass of one dispatch.
    fn run(&self, label: &str, kernel: &Object, buffer: &Object) -> u64 {
        let commands = self.commands(label);
        let encoder = self.encoder(commands);
        self.dispatch(commands, encoder, kernel, buffer);
        self.world().end(commands, encoder);
        self.world().commit(commands);
        commands
    }

    fn hold(&self, held: bool) {
        self.world().change(|state| state.held = held);
    }

    fn idle(&self) {
        let control = super::ModelControl::new(Arc::clone(&self.model.world));
        assert!(control.wait_idle(Duration::from_secs(10)));
    }

    /// One fault with these words, and no other.
    #[track_caller]
    fn found(&self, words: &str) {
        let faults = std::mem::take(&mut self.world().state.lock().faults);
        assert!(faults.len() == 1 && faults[0].contains(words), "{faults:?} ({words})");
    }

    #[track_caller]
    fn nothing_found(&self) {
        assert_eq!(self.world().state.lock().faults, [""; 0]);
    }
}

#[test]
fn what_follows_the_rules_is_no_fault() {
    let scene = Scene::new();
    let (kernel, buffer) = (scene.kernel(), scene.model.buffer(64).unwrap());
    scene.run("good", &kernel, &buffer);
    scene.idle();
    scene.nothing_found();
    drop((kernel, buffer));
    scene.nothing_found();
}

#[test]
fn a_command_buffer_is_committed_twice() {
    let scene = Scene::new();
    let commands = scene.commands("twice");
    scene.world().commit(commands);
    scene.nothing_found();
    scene.world().commit(commands);
    scene.found("was committed before");
}

#[test]
fn a_completed_handler_is_added_after_the_commit() {
    let scene = Scene::new();
    let commands = scene.commands("late handler");
    scene.world().commit(commands);
    scene.world().on_completed(commands, Box::new(|_| ()));
    scene.found("addCompletedHandler: command buffer");
}

#[test]
fn something_is_encoded_after_the_commit() {
    let scene = Scene::new();
    let event = scene.model.event().unwrap();
    let commands = scene.commands("over");
    scene.world().commit(commands);
    scene.world().signal_event(commands, event.id, 1);
    scene.found("encodeSignalEvent: command buffer");
    assert!(inside_pool(|| scene.world().encoder(commands)).is_none());
    scene.found("computeCommandEncoder: command buffer");
}

#[test]
fn a_second_encoder_is_opened_while_one_is_open() {
    let scene = Scene::new();
    let commands = scene.commands("coalesced");
    scene.encoder(commands);
    assert!(inside_pool(|| scene.world().encoder(commands)).is_none());
    scene.found("an encoder is open already");
}

#[test]
fn a_command_buffer_is_committed_or_signals_with_an_encoder_open() {
    let scene = Scene::new();
    let event = scene.model.event().unwrap();
    let commands = scene.commands("open");
    scene.encoder(commands);
    scene.world().wait_event(commands, event.id, 1);
    scene.found("encodeWaitForEvent: an encoder is open");
    scene.world().signal_event(commands, event.id, 1);
    scene.found("encodeSignalEvent: an encoder is open");
    scene.world().commit(commands);
    scene.found("commit: an encoder is open");
}

#[test]
fn an_encoder_is_used_after_its_end() {
    let scene = Scene::new();
    let (kernel, buffer) = (scene.kernel(), scene.model.buffer(64).unwrap());
    let commands = scene.commands("ended");
    let encoder = scene.encoder(commands);
    scene.world().end(commands, encoder);
    scene.world().set_kernel(commands, encoder, kernel.id);
    scene.found("setComputePipelineState: the encoder was ended before");
    scene.world().set_buffer(commands, encoder, 0, (buffer.id, 0, WHOLE));
    scene.found("setBuffer: the encoder was ended before");
    scene.world().end(commands, encoder);
    scene.found("endEncoding: the encoder was ended before");
    // Nor is it the encoder that is open now.
    scene.encoder(commands);
    scene.world().barrier(commands, encoder);
    scene.found("memoryBarrier: the encoder was ended before");
}

#[test]
fn an_encoder_is_used_by_two_threads() {
    let scene = Scene::new();
    let kernel = scene.kernel();
    let commands = scene.commands("shared");
    let encoder = scene.encoder(commands);
    std::thread::scope(|scope| {
        scope.spawn(|| scene.world().set_kernel(commands, encoder, kernel.id));
    });
    scene.found("used by another thread");
}

#[test]
fn a_command_buffer_is_let_go_with_an_open_encoder() {
    let scene = Scene::new();
    let commands = scene.commands("forgotten");
    scene.encoder(commands);
    scene.world().drop_commands(commands);
    scene.found("released with an open encoder");
}

#[test]
fn a_command_buffer_is_made_outside_an_autorelease_pool() {
    let scene = Scene::new();
    let commands = scene.world().commands(scene.queue.id, "leaking");
    scene.found("a command buffer is made outside an autorelease pool");
    scene.world().encoder(commands);
    scene.found("an encoder is made outside an autorelease pool");
}

#[test]
fn a_queue_is_asked_for_more_command_buffers_than_it_holds() {
    let scene = Scene::new();
    scene.hold(true);
    for _ in 0..8 {
        scene.world().commit(scene.commands("waiting"));
    }
    scene.nothing_found();
    scene.commands("ninth");
    scene.found("number 9 of a queue of 8: Metal would block");
    scene.hold(false);
}

#[test]
fn a_buffer_is_freed_while_a_command_buffer_names_it() {
    let scene = Scene::new();
    let (kernel, buffer) = (scene.kernel(), scene.model.buffer(64).unwrap());
    scene.hold(true);
    scene.run("reader", &kernel, &buffer);
    drop(buffer);
    scene.found("a buffer released while command buffer `reader`");
    drop(kernel);
    scene.found("a kernel released while command buffer `reader`");
    scene.hold(false);
}

#[test]
fn an_event_or_a_fence_is_freed_while_a_command_buffer_names_it() {
    let scene = Scene::new();
    let (event, fence) = (scene.model.event().unwrap(), scene.model.fence().unwrap());
    scene.hold(true);
    let commands = scene.commands("signal");
    let encoder = scene.encoder(commands);
    scene.world().update_fence(commands, encoder, fence.id);
    scene.world().end(commands, encoder);
    scene.world().signal_event(commands, event.id, 1);
    scene.world().commit(commands);
    drop(event);
    scene.found("an event released");
    drop(fence);
    scene.found("a fence released");
    scene.hold(false);
}

#[test]
fn a_buffer_is_freed_between_encoding_and_commit() {
    let scene = Scene::new();
    let (kernel, buffer) = (scene.kernel(), scene.model.buffer(64).unwrap());
    let commands = scene.commands("stale");
    let encoder = scene.encoder(commands);
    scene.dispatch(commands, encoder, &kernel, &buffer);
    scene.world().end(commands, encoder);
    drop(buffer);
    scene.nothing_found();
    scene.world().commit(commands);
    scene.found("names an object that was released");
}

#[test]
fn a_freed_buffer_is_bound() {
    let scene = Scene::new();
    let buffer = scene.model.buffer(64).unwrap();
    let id = buffer.id;
    drop(buffer);
    let commands = scene.commands("dangling");
    let encoder = scene.encoder(commands);
    scene.world().set_buffer(commands, encoder, 0, (id, 0, WHOLE));
    scene.found("setBuffer: a buffer that was released");
}

#[test]
fn an_event_does_not_rise() {
    let scene = Scene::new();
    let event = scene.model.event().unwrap();
    let commands = scene.commands("falling");
    scene.world().signal_event(commands, event.id, 2);
    scene.world().signal_event(commands, event.id, 2);
    scene.found("encodeSignalEvent: value 2, but 2 was asked for before");
    scene.world().commit(commands);
    scene.idle();
    scene.model.set_signaled(&event, 1);
    scene.found("setSignaledValue: 1, but the event is at 2");
}

#[test]
fn an_event_is_waited_for_that_nobody_signals() {
    let deadlock_after = Duration::from_millis(20);
    let model = Model::new(&ModelConfig { deadlock_after, ..ModelConfig::default() });
    let queue = model.queue("queue", 8).unwrap();
    let scene = Scene { model, queue };
    let event = scene.model.event().unwrap();
    let commands = scene.commands("stuck");
    scene.world().wait_event(commands, event.id, 1);
    scene.world().commit(commands);
    std::thread::sleep(Duration::from_millis(200));
    scene.found("deadlock: `stuck`");
    scene.model.set_signaled(&event, 1);
    scene.idle();
}

#[test]
fn a_fence_is_used_against_its_rules() {
    let scene = Scene::new();
    let (kernel, buffer) = (scene.kernel(), scene.model.buffer(64).unwrap());
    let fence = scene.model.fence().unwrap();
    let commands = scene.commands("fence");
    let encoder = scene.encoder(commands);
    scene.world().update_fence(commands, encoder, fence.id);
    scene.world().wait_fence(commands, encoder, fence.id);
    scene.found("waitForFence: the pass has begun");
    scene.world().end(commands, encoder);
    let encoder = scene.encoder(commands);
    scene.dispatch(commands, encoder, &kernel, &buffer);
    scene.world().wait_fence(commands, encoder, fence.id);
    scene.found("waitForFence: the pass has begun");
    scene.world().end(commands, encoder);
    scene.world().commit(commands);
    scene.idle();
    let fresh = scene.model.fence().unwrap();
    let other = scene.model.queue("other", 8).unwrap();
    for (queue, fence, words) in
        [(scene.queue.id, &fresh, "a fence that no pass has updated"), (other.id, &fence, "of another queue")]
    {
        let commands = inside_pool(|| scene.world().commands(queue, "fence"));
        let encoder = scene.encoder(commands);
        scene.world().wait_fence(commands, encoder, fence.id);
        scene.world().end(commands, encoder);
        scene.world().commit(commands);
        scene.idle();
        scene.found(words);
    }
}

#[test]
fn what_is_bound_is_not_what_the_kernel_takes() {
    let scene = Scene::new();
    let (kernel, buffer) = (scene.kernel(), scene.model.buffer(64).unwrap());
    let commands = scene.commands("bindings");
    let encoder = scene.encoder(commands);
    let world = scene.world();
    let dispatch = || world.dispatch(commands, encoder, [1; 3], [1; 3]);
    dispatch();
    scene.found("no kernel is set");
    world.set_kernel(commands, encoder, kernel.id);
    dispatch();
    scene.found("has no buffer at 0");
    for (offset, access) in
        [(0, Access { bytes: 65, ..WHOLE }), (48, Access { bytes: 32, ..WHOLE }), (8, WHOLE)]
    {
        world.set_buffer(commands, encoder, 0, (buffer.id, offset, access));
        scene.found("offsets are multiples of 16");
    }
    world.set_buffer(commands, encoder, limits::BUFFERS, (buffer.id, 0, WHOLE));
    scene.found("index 31; 0 to 30");
    world.set_bytes(commands, encoder, 1, &[0; 4097]);
    scene.found("4097 bytes; 1 to 4096");
    world.set_threadgroup_memory(commands, encoder, 0, 12);
    scene.found("12 bytes at 0");
    world.set_buffer(commands, encoder, 0, (buffer.id, 0, WHOLE));
    dispatch();
    scene.found("has not the lengths of its bindings");
    world.set_bytes(commands, encoder, 2, &60_u32.to_ne_bytes());
    dispatch();
    scene.found("has not the lengths of its bindings");
    world.set_bytes(commands, encoder, 2, &64_u32.to_ne_bytes());
    world.dispatch(commands, encoder, [1, 0, 1], [1; 3]);
    scene.found("[1, 0, 1] groups");
    world.dispatch(commands, encoder, [1; 3], [64, 32, 1]);
    scene.found("[64, 32, 1] threads");
    dispatch();
    scene.nothing_found();
}

#[test]
fn two_passes_of_one_command_buffer_are_not_ordered_by_themselves() {
    let scene = Scene::new();
    let (kernel, buffer) = (scene.kernel(), scene.model.buffer(64).unwrap());
    let commands = scene.commands("passes");
    for _ in 0..2 {
        let encoder = scene.encoder(commands);
        scene.dispatch(commands, encoder, &kernel, &buffer);
        scene.world().end(commands, encoder);
    }
    scene.world().commit(commands);
    scene.idle();
    scene.found("race: `touch` writes bytes 0..64");
}

#[test]
fn a_barrier_says_nothing_about_earlier_passes() {
    let scene = Scene::new();
    let (kernel, buffer, other) =
        (scene.kernel(), scene.model.buffer(64).unwrap(), scene.model.buffer(64).unwrap());
    scene.run("first", &kernel, &buffer);
    let commands = scene.commands("second");
    let encoder = scene.encoder(commands);
    scene.dispatch(commands, encoder, &kernel, &other);
    scene.world().barrier(commands, encoder);
    scene.dispatch(commands, encoder, &kernel, &buffer);
    scene.world().end(commands, encoder);
    scene.world().commit(commands);
    scene.idle();
    scene.found("race: `touch` writes bytes 0..64");
}

#[test]
fn a_fence_stands_for_its_last_update_alone() {
    let scene = Scene::new();
    let (kernel, fence) = (scene.kernel(), scene.model.fence().unwrap());
    let buffers = [scene.model.buffer(64).unwrap(), scene.model.buffer(64).unwrap()];
    for buffer in &buffers {
        let commands = scene.commands("update");
        let encoder = scene.encoder(commands);
        scene.dispatch(commands, encoder, &kernel, buffer);
        scene.world().update_fence(commands, encoder, fence.id);
        scene.world().end(commands, encoder);
        scene.world().commit(commands);
    }
    for (buffer, ordered) in buffers.iter().zip([false, true]) {
        let commands = scene.commands("wait");
        let encoder = scene.encoder(commands);
        scene.world().wait_fence(commands, encoder, fence.id);
        scene.dispatch(commands, encoder, &kernel, buffer);
        scene.world().end(commands, encoder);
        scene.world().commit(commands);
        scene.idle();
        if ordered {
            scene.nothing_found();
        } else {
            scene.found("race:");
        }
    }
}

#[test]
fn a_command_buffer_is_committed_while_the_cpu_writes_what_it_reads() {
    let scene = Scene::new();
    let (kernel, buffer) = (scene.kernel(), scene.model.buffer(64).unwrap());
    let range = crate::ByteRange { start: 0, end: 64 };
    scene.model.begin_host_access(&buffer, range, true).unwrap();
    scene.run("early", &kernel, &buffer);
    scene.idle();
    scene.found("is committed while the CPU has bytes 0..64");
    scene.model.end_host_access(&buffer, range, true).unwrap();
    assert!(scene.model.end_host_access(&buffer, range, true).is_err());
}

#[test]
fn a_capture_begins_or_ends_while_a_command_buffer_is_open() {
    let folder = Folder::new("open");
    let model = Model::new(&ModelConfig { captures: true, ..ModelConfig::default() });
    let queue = model.queue("queue", 8).unwrap();
    let scene = Scene { model, queue };
    let document = folder.0.join("open.gputrace");
    inside_pool(|| {
        let commands = scene.commands("half done");
        scene.model.start_capture(&document).unwrap();
        scene.found("startCapture: command buffer `half done` is open");
        scene.model.stop_capture();
        scene.found("stopCapture: command buffer `half done` is open");
        scene.world().commit(commands);
    });
}

#[test]
fn a_capture_is_refused_or_ended_against_its_rules() {
    let folder = Folder::new("refused");
    let document = folder.0.join("first.gputrace");
    let start = |scene: &Scene, path: &std::path::Path| {
        inside_pool(|| scene.model.start_capture(path)).map_err(|fault| fault.code)
    };
    assert_eq!(start(&Scene::new(), &document), Err(1), "MTL_CAPTURE_ENABLED is not set");
    let model = Model::new(&ModelConfig { captures: true, ..ModelConfig::default() });
    let queue = model.queue("queue", 8).unwrap();
    let scene = Scene { model, queue };
    for path in ["first.txt", "missing/first.gputrace"] {
        assert_eq!(start(&scene, &folder.0.join(path)), Err(3), "{path}");
    }
    assert_eq!(start(&scene, std::path::Path::new("first.gputrace")), Err(3), "not absolute");
    assert_eq!(start(&scene, &document), Ok(()));
    assert_eq!(start(&scene, &folder.0.join("second.gputrace")), Err(2));
    scene.model.stop_capture();
    assert_eq!(start(&scene, &document), Err(3), "it exists");
    scene.nothing_found();
    scene.model.stop_capture();
    scene.found("stopCapture: no capture is recorded");
    let _ = scene.model.start_capture(&folder.0.join("third.gputrace"));
    scene.found("a capture's descriptor is made outside an autorelease pool");
}
