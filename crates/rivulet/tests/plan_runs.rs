//! Runs of a program: on many threads, over memory that changes, wherever inputs lie; and what cannot be a program.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

mod gpu;
mod plan;

use plan::{
    Tensor, binary, capture, capture_with, device_or_skip, in_place, linear, read, run, touch, unary,
};
use rivulet::ops::{DType, Op, Scalar, pointwise, random};
use rivulet::plan::{Fusion, Noting, Program, Span};
use rivulet::rng::Generator;
use rivulet::{Access, Device, Error};
use std::sync::Barrier;

const F: DType = DType::F32;

/// Two layers that share their weights with whoever asks.
fn layers(device: &Device) -> [Tensor; 3] {
    [
        Tensor::random(device, F, &[64, 32], 1),
        Tensor::random(device, F, &[64], 2),
        Tensor::random(device, F, &[16, 64], 3),
    ]
}

fn perceptron(layers: &[Tensor; 3], x: &Tensor) -> rivulet::Result<Tensor> {
    linear(&unary(Op::Relu, &linear(x, &layers[0], Some(&layers[1]))?)?, &layers[2], None)
}

fn noted(device: &Device, layers: &[Tensor; 3], x: &Tensor) -> (Program, Vec<Tensor>) {
    capture(device, &[x], |inputs| Ok(vec![perceptron(layers, inputs[0])?])).unwrap()
}

#[test]
fn threads_run_one_program_each_on_its_own_inputs() {
    let device = device_or_skip!();
    let layers = layers(&device);
    let example = Tensor::random(&device, F, &[3, 32], 0);
    let (program, _) = noted(&device, &layers, &example);
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 40;
    let wanted: Vec<Vec<Vec<u8>>> = (0..THREADS)
        .map(|thread| {
            let run = |round| {
                let x = Tensor::random(&device, F, &[3, 32], 100 + thread * ROUNDS + round);
                perceptron(&layers, &x).unwrap().bytes()
            };
            (0..ROUNDS).map(run).collect()
        })
        .collect();
    let start = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for (thread, wanted) in wanted.iter().enumerate() {
            let (device, program, start) = (&device, &program, &start);
            scope.spawn(move || {
                let inputs: Vec<Tensor> = (0..ROUNDS)
                    .map(|round| Tensor::random(device, F, &[3, 32], 100 + thread as u64 * ROUNDS + round))
                    .collect();
                start.wait();
                let runs: Vec<_> =
                    inputs.iter().map(|input| program.run(&[input.span()], None).unwrap()).collect();
                for (fresh, wanted) in runs.into_iter().zip(wanted) {
                    let got = read(device, &Span::new(&fresh[0], wanted.len() as u64));
                    assert!(got == *wanted, "thread {thread}");
                    fresh.into_iter().for_each(|block| device.free(block));
                }
            });
        }
    });
}

#[test]
fn a_weight_that_is_updated_in_place_counts_at_the_next_run() {
    follows_updates(&device_or_skip!());
}

#[test]
fn the_same_where_the_cpu_does_not_see_the_devices_memory() {
    let Some(device) = plan::mirrored_device() else { return };
    assert!(!device.info().unified_memory);
    follows_updates(&device);
}

fn follows_updates(device: &Device) {
    let layers = layers(device);
    let x = Tensor::random(device, F, &[3, 32], 0);
    let (program, outs) = noted(device, &layers, &x);
    let before = run(&program, &[&x], &outs, None);
    for changed in [&layers[0], &layers[2]] {
        // By the device and by the CPU.
        in_place(Op::Neg, changed).unwrap();
        let values = Tensor::random(device, F, &[64], 77);
        layers[1].write(&values.bytes());
        let values = Tensor::random(device, F, &[16, 64], 78).bytes();
        let access = device.host_access("fill", &[(layers[2].block(), Access::Write)]).unwrap();
        gpu::common::store(layers[2].block(), &values);
        access.finish().unwrap();
        let want = perceptron(&layers, &x).unwrap().bytes();
        assert_ne!(before[0], want);
        assert_eq!(run(&program, &[&x], &outs, None)[0], want);
    }
}

#[test]
fn a_program_outlives_what_it_was_made_of() {
    let device = device_or_skip!();
    let x = Tensor::random(&device, F, &[3, 32], 5);
    let (program, wanted) = {
        let layers = layers(&device);
        let example = Tensor::random(&device, F, &[3, 32], 0);
        let (program, outs) = noted(&device, &layers, &example);
        let wanted = perceptron(&layers, &x).unwrap().bytes();
        drop((example, outs));
        (program, wanted)
    };
    // What takes the freed memory.
    let others: Vec<Tensor> = (0..40).map(|seed| Tensor::random(&device, F, &[64, 32], seed)).collect();
    let like = [Tensor::empty(&device, F, &[3, 16]).unwrap()];
    assert_eq!(run(&program, &[&x], &like, None)[0], wanted);
    let live = device.memory_stats().unwrap().active_blocks;
    drop(program);
    assert_eq!(device.memory_stats().unwrap().active_blocks, live - 3, "the weights go with the program");
    drop(others);
}

#[test]
fn inputs_may_lie_anywhere_in_their_blocks() {
    let device = device_or_skip!();
    let layers = layers(&device);
    // The example begins inside its block too.
    for lead in [0, 64, 3] {
        let example = Tensor::random(&device, F, &[lead + 96], 1).starting_at(lead).with(&[3, 32], &[32, 1]);
        let (program, outs) = noted(&device, &layers, &example);
        for offset in [0, 1, 4, 64, 65, 128] {
            let storage = Tensor::random(&device, F, &[offset + 96 + 5], 9);
            let x = storage.starting_at(offset).with(&[3, 32], &[32, 1]);
            // Where an input begins decides which kernel reads it: the noted one's.
            let alike =
                Tensor::random(&device, F, &[lead + 96], 2).starting_at(lead).with(&[3, 32], &[32, 1]);
            alike.write(&x.bytes());
            let want = perceptron(&layers, &alike).unwrap().bytes();
            assert_eq!(run(&program, &[&x], &outs, None)[0], want, "{lead}, {offset}");
        }
    }
}

#[test]
fn inputs_are_written_where_the_noted_work_wrote_them() {
    let device = device_or_skip!();
    for dtype in [F, DType::BF16, DType::I8] {
        let example = Tensor::random(&device, dtype, &[7], 1);
        let (program, outs) = capture(&device, &[&example], |inputs| {
            in_place(Op::Neg, inputs[0])?;
            Ok(vec![inputs[0].clone()])
        })
        .unwrap();
        for offset in [0, 3, 256] {
            let storage = Tensor::random(&device, dtype, &[offset + 7 + 9], 9);
            let x = storage.starting_at(offset).with(&[7], &[1]);
            let size = dtype.size() as usize;
            let (from, to) = (offset as usize * size, (offset as usize + 7) * size);
            let (before, wanted) = (storage.bytes(), unary(Op::Neg, &x).unwrap().bytes());
            assert_eq!(run(&program, &[&x], &outs, None)[0], wanted, "{dtype:?} at {offset}");
            let after = storage.bytes();
            assert_eq!(
                (&after[..from], &after[to..]),
                (&before[..from], &before[to..]),
                "{dtype:?} at {offset}"
            );
        }
    }
}

#[test]
fn shared_memory_is_written_at_each_run_as_noted() {
    let device = device_or_skip!();
    let (total, one) = (Tensor::of(&device, F, &[4], &[0.0; 4]), Tensor::of(&device, F, &[4], &[1.0; 4]));
    let (program, outs) = capture(&device, &[&one], |inputs| {
        let view = total.view();
        pointwise(&device, Op::Add, F, &view, &[total.view(), inputs[0].view()], None, &[])?;
        Ok(vec![total.clone(), unary(Op::Square, &total)?])
    })
    .unwrap();
    assert_eq!(total.floats(), [1.0; 4], "the noted run counts too");
    for round in 2..5 {
        run(&program, &[&one], &outs, None);
        assert_eq!(total.floats(), [f64::from(round); 4]);
    }
    let error = program.run(&[total.span()], None).unwrap_err().to_string();
    assert!(error.contains("input 0 lies in memory of its own, which it writes"), "{error}");
}

#[test]
fn random_numbers_are_new_at_each_run_and_follow_the_generator() {
    let device = device_or_skip!();
    let rng = Generator::new(7);
    let x = Tensor::random(&device, F, &[300], 0);
    let model = |inputs: &[&Tensor]| {
        let (low, high) = (Scalar::F32(0.0), Scalar::F32(1.0));
        let unread = Tensor::empty(&device, F, &[300])?;
        random(&device, Op::Uniform, &unread.view(), &[low, high], rng.draw())?;
        let noise = Tensor::empty(&device, F, &[300])?;
        random(&device, Op::Normal, &noise.view(), &[low, high], rng.draw())?;
        let more = Tensor::empty(&device, F, &[300])?;
        random(&device, Op::Uniform, &more.view(), &[low, high], rng.draw())?;
        Ok(vec![binary(Op::Add, inputs[0], &noise)?, more])
    };
    let (program, outs) = capture(&device, &[&x], model).unwrap();
    let state = rng.state();
    let runs: Vec<_> = (0..3).map(|_| run(&program, &[&x], &outs, Some(&rng))).collect();
    assert!(runs[0][0] != runs[1][0] && runs[1][0] != runs[2][0] && runs[0][1] != runs[1][1]);
    rng.set_state(state);
    for got in &runs {
        let want: Vec<_> = model(&[&x]).unwrap().iter().map(Tensor::bytes).collect();
        assert!(*got == want, "what the generator would have given the ops");
    }
    let error = program.run(&[x.span()], None).unwrap_err().to_string();
    assert!(error.contains("3 of its ops draw random numbers"), "{error}");
}

#[test]
fn results_that_nobody_reads_are_not_computed() {
    let device = device_or_skip!();
    let x = Tensor::random(&device, F, &[64], 0);
    let (program, outs) = capture(&device, &[&x], |inputs| {
        let unread = unary(Op::Exp, inputs[0])?;
        in_place(Op::Neg, &unary(Op::Sqrt, &unread)?)?;
        Ok(vec![unary(Op::Sin, inputs[0])?])
    })
    .unwrap();
    let report = program.report();
    assert_eq!((report.noted, report.commands.len(), report.fusions.len()), (4, 1, 3), "{report:#?}");
    assert_eq!(report.arena_bytes, 0);
    assert_eq!(run(&program, &[&x], &outs, None)[0], outs[0].bytes());
}

#[test]
fn constants_that_the_cpu_writes_are_kept() {
    let device = device_or_skip!();
    let x = Tensor::random(&device, F, &[8], 0);
    let model = |inputs: &[&Tensor]| {
        let constant = Tensor::of(&device, F, &[8], &[3.0; 8]);
        let sum = binary(Op::Add, inputs[0], &constant);
        drop(constant);
        // Memory that the constant's could become.
        let other = Tensor::of(&device, F, &[8], &[5.0; 8]);
        binary(Op::Mul, &sum?, &other).map(|out| vec![out])
    };
    let (program, outs) = capture(&device, &[&x], model).unwrap();
    let trash: Vec<_> = (0..20).map(|seed| Tensor::random(&device, F, &[8], seed)).collect();
    let y = Tensor::random(&device, F, &[8], 4);
    assert_eq!(run(&program, &[&y], &outs, None)[0], model(&[&y]).unwrap()[0].bytes());
    drop(trash);
}

/// The error of a noting in which `body` ran.
#[track_caller]
fn refused(device: &Device, input: &Tensor, body: impl FnOnce() -> rivulet::Result<()>) -> String {
    let noting = Noting::begin(device, &[input.span()]).unwrap();
    body().unwrap();
    let error = noting.end(&[]).unwrap_err();
    assert!(matches!(error, Error::NoKernel { .. }), "{error}");
    error.to_string()
}

#[test]
fn what_cannot_be_run_again_is_refused_by_name() {
    let device = device_or_skip!();
    let (x, weight) = (Tensor::random(&device, F, &[8], 0), Tensor::random(&device, F, &[8], 1));
    let result = |op: fn(&Tensor)| {
        refused(&device, &x, || {
            op(&unary(Op::Exp, &x)?);
            Ok(())
        })
    };
    let error = result(|made| touch(made.device(), "aten::nonzero", made.block(), Access::Read));
    assert_eq!(error, "aten::nonzero: ran on the CPU over what the device made");
    let error = result(|made| drop(made.floats()));
    assert_eq!(error, "read: ran on the CPU over what the device made");
    let error = refused(&device, &x, || {
        touch(&device, "aten::item", x.block(), Access::Read);
        Ok(())
    });
    assert_eq!(error, "aten::item: ran on the CPU over the memory of input 0");
    let error = refused(&device, &x, || {
        touch(&device, "aten::fill_", weight.block(), Access::Write);
        Ok(())
    });
    assert!(error.starts_with("aten::fill_: ran on the CPU over memory that was there before"), "{error}");
    let error = refused(&device, &x, || {
        let constant = Tensor::of(&device, F, &[8], &[1.0; 8]);
        in_place(Op::Neg, &constant)
    });
    assert!(error.contains("neg: writes what the CPU had written before"), "{error}");
    let part = x.starting_at(4);
    let noting = Noting::begin(&device, &[Span { bytes: 16, ..part.span() }]).unwrap();
    unary(Op::Exp, &x).unwrap();
    let error = noting.end(&[]).unwrap_err().to_string();
    assert!(error.contains("exp: touches bytes 0..32 of a block, of which input 0 is 16..32"), "{error}");
}

#[test]
fn notings_and_runs_that_do_not_fit_are_refused() {
    let device = device_or_skip!();
    let x = Tensor::random(&device, F, &[8], 0);
    let text = |result: rivulet::Result<Noting>| result.map(drop).unwrap_err().to_string();
    let overlapping = Noting::begin(&device, &[x.span(), x.span()]);
    assert!(text(overlapping).contains("inputs 0 and 1 share memory"));
    let first = Noting::begin(&device, &[x.span()]).unwrap();
    assert!(text(Noting::begin(&device, &[])).contains("noting one already"));
    drop(first);
    let (program, _) = capture(&device, &[&x], |inputs| Ok(vec![unary(Op::Exp, inputs[0])?])).unwrap();
    let refused = |inputs: &[Span<'_>]| match program.run(inputs, None) {
        Err(error @ Error::BadOperand { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&[]), "program: 0 inputs; it takes 1");
    let long = Tensor::random(&device, F, &[9], 0);
    assert_eq!(refused(&[long.span()]), "program: input 0 has 36 bytes; it must have 32");
    let host = Device::host();
    let error = text(Noting::begin(&host, &[]));
    assert!(error.contains("runs ops on the CPU"), "{error}");
}

#[test]
fn an_abandoned_noting_leaves_nothing_behind() {
    let device = device_or_skip!();
    let (x, weight) = (Tensor::random(&device, F, &[8], 0), Tensor::random(&device, F, &[8], 1));
    let live = device.memory_stats().unwrap().active_blocks;
    let noting = Noting::begin(&device, &[x.span()]).unwrap();
    binary(Op::Add, &x, &weight).unwrap();
    drop(Tensor::of(&device, F, &[8], &[1.0; 8]));
    drop(noting);
    assert_eq!(device.memory_stats().unwrap().active_blocks, live);
    // Nothing is noted any more.
    x.floats();
    let (program, _) = capture(&device, &[&x], |inputs| Ok(vec![unary(Op::Exp, inputs[0])?])).unwrap();
    assert_eq!(program.report().noted, 1);
}

#[test]
fn a_long_program_is_recorded_in_parts() {
    let device = device_or_skip!();
    let model = |inputs: &[&Tensor]| {
        let mut x = binary(Op::Add, inputs[0], inputs[0])?;
        for round in 0..150 {
            x = unary(if round % 2 == 0 { Op::Sin } else { Op::Neg }, &x)?;
        }
        Ok(vec![x])
    };
    let x = Tensor::random(&device, F, &[1000], 0);
    let (program, outs) = capture_with(&device, &[&x], Fusion::Off, model).unwrap();
    let report = program.report();
    assert_eq!(report.arena_bytes, 2 * 4096);
    assert!(report.parts >= 3, "{} parts", report.parts);
    let y = Tensor::random(&device, F, &[1000], 8);
    let want = model(&[&y]).unwrap()[0].bytes();
    for _ in 0..20 {
        assert!(run(&program, &[&y], &outs, None)[0] == want);
    }
}
