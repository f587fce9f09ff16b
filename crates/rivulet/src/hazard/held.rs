//! The blocks that the calling thread holds, so that an op inside its own op knows them.
//!
//! A stack of keys. The first [`INLINE`] lie in a thread-local without a destructor, which costs no more than a load
//! to reach and still answers while the thread's other locals are being torn down; further ones go to a second.

use rivulet_hal::sync;
use std::cell::{Cell, RefCell};

/// Keys kept in place.
const INLINE: usize = 32;

struct Held {
    len: Cell<usize>,
    keys: [Cell<usize>; INLINE],
}

impl Held {
    const fn new() -> Self {
        Self { len: Cell::new(0), keys: [const { Cell::new(0) }; INLINE] }
    }
}

#[cfg(not(loom))]
sync::thread_local! {
    static HELD: Held = const { Held::new() };
    static MORE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}
#[cfg(loom)]
sync::thread_local! { static HELD: Held = Held::new(); }
#[cfg(loom)]
sync::thread_local! { static MORE: RefCell<Vec<usize>> = RefCell::new(Vec::new()); }

/// Number of keys on the stack.
#[inline]
pub(super) fn len() -> usize {
    HELD.try_with(|held| held.len.get()).unwrap_or(0)
}

#[inline]
pub(super) fn push(key: usize) {
    let _ = HELD.try_with(|held| {
        let len = held.len.get();
        match held.keys.get(len) {
            Some(slot) => slot.set(key),
            None => push_more(key),
        }
        held.len.set(len + 1);
    });
}

#[cold]
fn push_more(key: usize) {
    // Where the second local is gone the key is as good as unknown: 0 is no key.
    let _ = MORE.try_with(|more| more.borrow_mut().push(key));
}

fn more(index: usize) -> usize {
    MORE.try_with(|more| more.borrow().get(index).copied()).ok().flatten().unwrap_or(0)
}

fn get(held: &Held, index: usize) -> usize {
    held.keys.get(index).map_or_else(|| more(index - INLINE), Cell::get)
}

/// True where `key` is on the stack.
pub(super) fn contains(key: usize) -> bool {
    HELD.try_with(|held| (0..held.len.get()).any(|index| get(held, index) == key)).unwrap_or(false)
}

/// The highest key on the stack.
pub(super) fn highest() -> Option<usize> {
    HELD.try_with(|held| (0..held.len.get()).map(|index| get(held, index)).max()).ok().flatten()
}

/// Takes off what was pushed last: `first` and whatever lies above it, `count` keys. False, and nothing done, where
/// something else lies there.
#[inline]
pub(super) fn truncate(first: usize, count: usize) -> bool {
    HELD.try_with(|held| {
        let len = held.len.get();
        let Some(start) = len.checked_sub(count) else { return false };
        if len > INLINE {
            return false;
        }
        let top = held.keys[start].get() == first;
        if top {
            held.len.set(start);
        }
        top
    })
    .unwrap_or(true)
}

/// Takes one key off, wherever it lies.
#[cold]
pub(super) fn remove(key: usize) {
    let _ = HELD.try_with(|held| {
        let mut keys: Vec<usize> = (0..held.len.get()).map(|index| get(held, index)).collect();
        if let Some(at) = keys.iter().rposition(|&other| other == key) {
            keys.remove(at);
        }
        let _ = MORE.try_with(|more| more.borrow_mut().clear());
        held.len.set(0);
        keys.into_iter().for_each(push);
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn keys_come_off_in_any_order_and_beyond_the_inline_ones() {
        let keys: Vec<usize> = (1..=3 * INLINE).collect();
        keys.iter().copied().for_each(push);
        assert_eq!((len(), highest(), contains(INLINE + 5), contains(0)), (96, Some(96), true, false));
        assert!(!truncate(96, 1), "long stacks are taken apart key by key");
        for key in keys.iter().copied().filter(|key| key % 2 == 0) {
            remove(key);
        }
        assert!(contains(95) && !contains(96) && contains(1));
        for key in keys.iter().copied().filter(|key| key % 2 == 1).rev() {
            if !truncate(key, 1) {
                remove(key);
            }
        }
        assert_eq!(len(), 0);
    }
}
