//! Copies that are not made.
//!
//! A copy between dense tensors of one type goes where its readers can read what it copies, or whoever makes what it copies
//! can write where it copies to.

use super::dense;
use crate::ops::Op;
use crate::plan::command::{Bound, Command, Work};
use crate::plan::compile::Draft;
use rivulet_hal::ByteRange;

/// Alignment of an operand that every device takes.
const ALIGNMENT: u64 = 256;

/// What a command copies without a change, and to where.
fn copied(command: &Command) -> Option<(Bound, Bound)> {
    match (&command.work, command.bounds.as_slice()) {
        (Work::Copy, [to, from]) => Some((from.clone(), to.clone())),
        (Work::Dispatch(_), _) => {
            let own = dense(command)?;
            let same = own.key.op == Op::Copy && own.key.inputs[0] == own.key.output;
            (same && own.key.common == own.key.output).then(|| (own.inputs[0].clone(), own.out.clone()))
        }
        _ => None,
    }
}

/// A bound of `old`'s bytes as one of `new`'s; `None` where an operand cannot begin there.
fn moved(bound: &Bound, old: &Bound, new: &Bound) -> Option<Bound> {
    let inside = old.touched.start <= bound.touched.start && bound.touched.end <= old.touched.end;
    let shift = new.touched.start.checked_sub(old.touched.start)?;
    if !inside || !shift.is_multiple_of(ALIGNMENT) {
        return None;
    }
    let shifted = |range: ByteRange| ByteRange { start: range.start + shift, end: range.end + shift };
    let touched = shifted(bound.touched);
    // Kernels read whole words, up to vectors of four; more of the new slot than that is others'.
    let end = touched.end.next_multiple_of(16).min(shifted(bound.range).end);
    let range = ByteRange { start: shifted(bound.range).start, end };
    Some(Bound { slot: new.slot, range, touched, ..bound.clone() })
}

/// Leaves out what copies only.
pub(super) fn drop_copies(draft: &mut Draft) {
    let mut at = 0;
    while at < draft.commands.len() {
        let changed = copied(&draft.commands[at]).and_then(|(from, to)| {
            let alone = draft.is_alone(at) && from.slot != to.slot;
            let changed = if alone { read_source(draft, at, &from, &to) } else { None };
            changed.or_else(|| if alone { write_target(draft, at, &from, &to) } else { None })
        });
        match changed {
            Some(commands) => {
                let dropped = draft.commands[at].describe();
                draft.commands = commands;
                draft.commands.remove(at);
                draft.fusions.push(format!("dropped {dropped}: not needed"));
            }
            None => at += 1,
        }
    }
}

/// The commands with every reader of the copy reading what it copies.
fn read_source(draft: &Draft, at: usize, from: &Bound, to: &Bound) -> Option<Vec<Command>> {
    draft.scratch(to.slot)?;
    let mut commands = draft.commands.clone();
    let mut last = at;
    for (other, command) in commands.iter_mut().enumerate().filter(|&(other, _)| other != at) {
        for bound in command.bounds.iter_mut().filter(|bound| bound.slot == to.slot) {
            if other < at || bound.write {
                return None;
            }
            *bound = moved(bound, to, from)?;
            last = other;
        }
    }
    // The last reader may write over what it reads, element by element, only where it did so before.
    (!draft.written_by(at + 1..last + 1, from.slot, from.touched)).then_some(commands)
}

/// The commands with whoever makes what is copied making it in its place.
fn write_target(draft: &Draft, at: usize, from: &Bound, to: &Bound) -> Option<Vec<Command>> {
    draft.scratch(from.slot)?;
    let mut commands = draft.commands.clone();
    let mut first = at;
    for (other, command) in commands.iter_mut().enumerate().filter(|&(other, _)| other != at) {
        for bound in command.bounds.iter_mut().filter(|bound| bound.slot == from.slot) {
            if other > at {
                return None;
            }
            *bound = moved(bound, from, to)?;
            first = first.min(other);
        }
    }
    // Who writes narrow elements may write the last word to its end.
    let whole_words = to.touched.end.is_multiple_of(4);
    (whole_words && first < at && !draft.touched_by(first..at, to.slot, to.touched)).then_some(commands)
}
