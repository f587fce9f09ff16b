//! Which commands run together.
//!
//! Commands of one level have no order among each other; between two levels is a barrier. Two ways to find levels: each
//! command as early as what it depends on allows, which needs the fewest barriers; or in the order in which they were
//! recorded, with a new level where a command depends on one of the last. The first may keep more memory alive.

use super::command::{Bound, Command, SlotId};
use std::collections::HashMap;

/// Level of each command.
pub(super) type Levels = Vec<u32>;

/// Earlier uses of each slot.
#[derive(Default)]
struct Uses<'c>(HashMap<SlotId, Vec<(usize, &'c Bound)>>);

impl<'c> Uses<'c> {
    /// The earlier commands on which a command depends.
    fn before<'u>(
        &'u self,
        commands: &'u [Command],
        command: &'u Command,
    ) -> impl Iterator<Item = usize> + 'u {
        command.bounds.iter().flat_map(move |bound| {
            let earlier = self.0.get(&bound.slot).into_iter().flatten();
            earlier
                .filter(move |(other, used)| used.conflicts(bound) && commands[*other].group != command.group)
                .map(|&(other, _)| other)
        })
    }

    fn add(&mut self, at: usize, command: &'c Command) {
        for bound in &command.bounds {
            self.0.entry(bound.slot).or_default().push((at, bound));
        }
    }
}

/// As early as possible.
pub(super) fn earliest(commands: &[Command]) -> Levels {
    let mut uses = Uses::default();
    let mut levels = Levels::with_capacity(commands.len());
    for (at, command) in commands.iter().enumerate() {
        let level = uses.before(commands, command).map(|other| levels[other] + 1).max();
        levels.push(level.unwrap_or(0));
        uses.add(at, command);
    }
    levels
}

/// In the order given, as few levels as that allows.
pub(super) fn in_order(commands: &[Command]) -> Levels {
    let mut uses = Uses::default();
    let mut levels = Levels::with_capacity(commands.len());
    let mut level = 0;
    for (at, command) in commands.iter().enumerate() {
        if uses.before(commands, command).any(|other| levels[other] == level) {
            level += 1;
        }
        levels.push(level);
        uses.add(at, command);
    }
    levels
}

/// One group after the other.
pub(super) fn one_by_one(commands: &[Command]) -> Levels {
    let (mut level, mut group) = (0, commands.first().map_or(0, |command| command.group));
    commands
        .iter()
        .map(|command| {
            if command.group != group {
                (level, group) = (level + 1, command.group);
            }
            level
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::command::Work;
    use super::*;
    use rivulet_hal::ByteRange;

    /// A command that reads slots and writes one, whole.
    fn command(group: u32, reads: &[u32], write: u32) -> Command {
        let range = ByteRange { start: 0, end: 64 };
        let bound = |slot, write| Bound { slot, range, touched: range, write, dtype: None };
        let bounds = std::iter::once(bound(write, true)).chain(reads.iter().map(|&slot| bound(slot, false)));
        Command { label: "test", group, bounds: bounds.collect(), work: Work::Copy }
    }

    fn keeps_order(commands: &[Command], levels: &[u32]) {
        for (a, own) in commands.iter().enumerate() {
            for (b, other) in commands.iter().enumerate().skip(a + 1) {
                let conflict =
                    own.bounds.iter().any(|own| other.bounds.iter().any(|bound| own.conflicts(bound)));
                assert!(!conflict || levels[a] < levels[b], "{a} and {b} of {levels:?}");
            }
        }
    }

    #[test]
    fn branches_run_beside_each_other() {
        // Two chains from one source, recorded one after the other, and what joins them.
        let commands = [
            command(1, &[0], 1),
            command(2, &[1], 2),
            command(3, &[0], 3),
            command(4, &[3], 4),
            command(5, &[2, 4], 5),
        ];
        assert_eq!(earliest(&commands), [0, 1, 0, 1, 2]);
        assert_eq!(in_order(&commands), [0, 1, 1, 2, 3]);
        assert_eq!(one_by_one(&commands), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn whatever_depends_on_another_comes_in_a_later_level() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..100 {
            let commands: Vec<Command> = (0..40)
                .map(|group| command(group, &[random.u32(0..12), random.u32(0..12)], random.u32(0..12)))
                .collect();
            for levels in [earliest(&commands), in_order(&commands), one_by_one(&commands)] {
                keeps_order(&commands, &levels);
            }
        }
    }

    #[test]
    fn parts_of_one_slot_and_commands_of_one_group_are_independent() {
        let (low, high) = (ByteRange { start: 0, end: 32 }, ByteRange { start: 32, end: 64 });
        let mut halves = [command(1, &[], 0), command(2, &[], 0)];
        (halves[0].bounds[0].touched, halves[1].bounds[0].touched) = (low, high);
        assert_eq!(earliest(&halves), [0, 0]);
        assert_eq!(earliest(&[command(1, &[], 0), command(1, &[], 0)]), [0, 0]);
        assert_eq!(earliest(&[command(1, &[], 0), command(2, &[], 0)]), [0, 1]);
    }
}
