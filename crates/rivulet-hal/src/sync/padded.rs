use std::ops::{Deref, DerefMut};

/// A value on cache lines of its own: 128 bytes, because current x86-64 prefetches lines in pairs and Apple's
/// lines are that long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(128))]
pub struct CachePadded<T>(T);

impl<T> CachePadded<T> {
    /// Pads `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value without its padding.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for CachePadded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for CachePadded<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::CachePadded;

    #[test]
    fn neighbours_share_no_line() {
        let cells = [CachePadded::new(0_u8), CachePadded::new(1)];
        let distance = (&raw const cells[1]).addr() - (&raw const cells[0]).addr();
        assert_eq!((distance, (&raw const cells[0]).addr() % 128), (128, 0));
    }
}
