//! Barriers and order of runs, on the simulated device, which reports every missing one.

use super::super::noting::{Noting, Span};
use super::Program;
use crate::memory::Block;
use crate::stream::FlushPolicy;
use crate::{Access, Device, DeviceOp, DeviceOptions, Result};
use rivulet_hal::sim::{self, SimConfig, SimControl};
use rivulet_hal::sync::Arc;
use rivulet_hal::{Binding, Pipeline, PipelineDesc, PipelineSource};

fn device(queues: usize) -> (Device, SimControl) {
    let (hal, control) = sim::open(SimConfig { queues, ..SimConfig::default() });
    let options = DeviceOptions { flush: FlushPolicy::default(), ..DeviceOptions::default() };
    (Device::with(hal, options).unwrap(), control)
}

/// `out = a + b`, of words.
fn add_words(operands: &mut [&mut [u8]], _: &[u8], _: [u32; 3]) {
    let [out, a, b] = operands else { panic!("three operands") };
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    for ((out, a), b) in out.chunks_exact_mut(4).zip(a.chunks_exact(4)).zip(b.chunks_exact(4)) {
        out.copy_from_slice(&word(a).wrapping_add(word(b)).to_le_bytes());
    }
}

struct Adder<'d> {
    device: &'d Device,
    kernel: Arc<dyn Pipeline>,
}

impl<'d> Adder<'d> {
    fn new(device: &'d Device) -> Self {
        let desc = PipelineDesc {
            label: "add".to_owned(),
            source: PipelineSource::Host(add_words),
            bindings: 3,
            param_bytes: 0,
            workgroup: [1, 1, 1],
        };
        Self { device, kernel: device.hal().pipeline(&desc).unwrap() }
    }

    fn add(&self, a: &Block, b: &Block) -> Result<Arc<Block>> {
        let out = self.device.allocate(256)?;
        let bind = |block: &Block, write| Binding { buffer: block.buffer().unwrap(), write };
        let bindings = [bind(&out, true), bind(a, false), bind(b, false)];
        let operands = [(&*out, Access::Write), (a, Access::Read), (b, Access::Read)];
        self.device.record(&DeviceOp::new("add", &operands), |recorder| {
            recorder.dispatch(&self.kernel, &bindings, &[], [1, 1, 1])
        })?;
        Ok(out)
    }
}

fn word(device: &Device, block: &Block) -> u32 {
    let mut bytes = [0; 4];
    device.read("read", block, 0, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn words(device: &Device, value: u32) -> Arc<Block> {
    let block = device.allocate(256).unwrap();
    device.write("write", &block, 0, &[value.to_le_bytes(); 64].concat()).unwrap();
    block
}

/// `(2x + w) + (x + w) + 2x`, with branches that are independent and memory that is reused.
fn capture(device: &Device, x: &Block, w: &Block) -> Program {
    let adder = Adder::new(device);
    let noting = Noting::begin(device, &[Span::new(x, 256)]).unwrap();
    let twice = adder.add(x, x).unwrap();
    let left = adder.add(&twice, w).unwrap();
    let right = adder.add(x, w).unwrap();
    let both = adder.add(&left, &right).unwrap();
    let again = adder.add(x, x).unwrap();
    let out = adder.add(&both, &again).unwrap();
    let program = noting.end(&[Span::new(&out, 256)]).unwrap();
    for block in [twice, left, right, both, again, out] {
        device.free(block);
    }
    program
}

fn value(x: u32, w: u32) -> u32 {
    (2 * x + w) + (x + w) + 2 * x
}

#[test]
fn runs_on_streams_of_several_queues_race_with_nothing() {
    let (device, control) = device(3);
    let (x, w) = (words(&device, 1), words(&device, 100));
    let program = capture(&device, &x, &w);
    let (arena, peak) = (program.report().arena_bytes, program.report().eager_peak_bytes);
    assert!(arena * 10 <= peak * 11, "{arena} of {peak}");
    assert_eq!(program.report().barriers, 3, "{:#?}", program.report());
    std::thread::scope(|scope| {
        for thread in 0..6_u32 {
            let (device, program) = (&device, &program);
            scope.spawn(move || {
                for round in 0..30 {
                    let own = thread * 1000 + round;
                    let input = words(device, own);
                    let fresh = program.run(&[Span::new(&input, 256)], None).unwrap();
                    device.free(input);
                    assert_eq!(word(device, &fresh[0]), value(own, 100));
                    device.free(fresh[0].clone());
                }
            });
        }
    });
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn a_result_of_one_thread_is_the_input_of_anothers_run() {
    let (device, control) = device(2);
    let (x, w) = (words(&device, 1), words(&device, 3));
    let program = capture(&device, &x, &w);
    let mut now = x;
    let mut wanted = 1;
    for _ in 0..6 {
        let next = std::thread::scope(|scope| {
            scope.spawn(|| program.run(&[Span::new(&now, 256)], None).unwrap()[0].clone()).join().unwrap()
        });
        device.free(std::mem::replace(&mut now, next));
        wanted = value(wanted, 3);
    }
    assert_eq!(word(&device, &now), wanted);
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn each_barrier_is_needed() {
    let barriers = {
        let (device, _) = device(1);
        capture(&device, &words(&device, 1), &words(&device, 2)).report().barriers
    };
    for removed in 0..barriers {
        let (device, control) = device(1);
        let (x, w) = (words(&device, 1), words(&device, 2));
        let mut program = capture(&device, &x, &w);
        let mut steps = program.layout.steps.iter_mut().filter(|step| step.barrier);
        steps.nth(removed).unwrap().barrier = false;
        let run = program.run(&[Span::new(&x, 256)], None);
        let waited = run.and_then(|_| device.synchronize());
        assert!(waited.is_err() || !control.faults().is_empty(), "barrier {removed} of {barriers}");
        let text = waited.map_or_else(|error| error.to_string(), |()| control.faults().join(", "));
        assert!(text.contains("nothing orders the two"), "{text}");
    }
}
