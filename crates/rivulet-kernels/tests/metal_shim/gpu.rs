//! What the tests of `tests/gpu` know of a device, on compiled MSL.

use crate::compiler;
use rivulet_hal::Device;
use rivulet_kernels::{Kernel, Target, Translated, translate};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// There is no device; tests that ask for its abilities are skipped.
pub fn device() -> Option<&'static Arc<dyn Device>> {
    None
}

/// An operand of a run: little-endian bytes, and whether the kernel writes them.
pub struct Operand<'a> {
    bytes: &'a mut Vec<u8>,
    write: bool,
}

pub fn input(bytes: &mut Vec<u8>) -> Operand<'_> {
    Operand { bytes, write: false }
}

pub fn output(bytes: &mut Vec<u8>) -> Operand<'_> {
    Operand { bytes, write: true }
}

/// Runs `kernel` once. Operands in binding order; what it wrote is in them afterwards.
pub fn run(kernel: Kernel, params: &[u8], groups: [u32; 3], operands: &mut [Operand<'_>]) {
    let label = kernel.label();
    let (text, entry, threadgroup) = match translate(&kernel, Target::Msl) {
        Ok(Translated::Msl { text, entry, threadgroup }) => (text, entry, threadgroup),
        other => panic!("{other:?}"),
    };
    assert_eq!(params.len(), kernel.param_bytes() as usize, "{label}");
    assert_eq!(operands.len(), kernel.bindings() as usize, "{label}");
    let object = compiler::compile(&label, &text, &entry).unwrap();
    let mut given = Vec::new();
    for operand in operands.iter() {
        let mut bytes = operand.bytes.clone();
        bytes.resize(bytes.len().max(4).next_multiple_of(4), 0);
        given.push(bytes);
    }
    // After the operands: the parameters, and the lengths of the operands.
    let lengths = given.iter().flat_map(|bytes| (bytes.len() as u32).to_le_bytes()).collect();
    given.push(params.to_vec());
    given.push(lengths);
    let mut words: Vec<u32> = groups.into_iter().chain(kernel.workgroup()).collect();
    words.push(threadgroup.len() as u32);
    words.extend(&threadgroup);
    words.push(given.len() as u32);
    let mut message: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    for bytes in &given {
        message.extend((bytes.len() as u32).to_le_bytes());
        message.extend(bytes);
    }
    let results = call(&label, &object, message);
    let mut rest = results.as_slice();
    for (operand, before) in operands.iter_mut().zip(&given) {
        let (after, tail) =
            rest.split_at_checked(before.len()).unwrap_or_else(|| panic!("{label} gave too little"));
        rest = tail;
        assert!(operand.write || after == before.as_slice(), "{label} wrote to an input");
        let bytes = operand.bytes.len();
        operand.bytes.copy_from_slice(&after[..bytes]);
    }
}

/// Runs a compiled kernel in a process of its own, which an access out of bounds ends.
fn call(label: &str, object: &std::path::Path, message: Vec<u8>) -> Vec<u8> {
    let mut process = Command::new(compiler::runner())
        .arg(object)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    // It reads all before it writes, so neither waits for the other. A process that ends early is told below.
    let _ = stdin.write_all(&message);
    drop(stdin);
    let output = process.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{label}: {} {words}", output.status);
    output.stdout
}

/// Nothing is needed: the compiler is the device.
#[macro_export]
macro_rules! need_device {
    () => {};
}
